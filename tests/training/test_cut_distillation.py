"""A narrower student learns over two processes what it learns in one, of texts of any lengths, its map too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import regard
from regard.training.checkpoints import standing

RECIPE = """
name = "tiny"
task = "classification"
[data]
train = "texts.jsonl"
valid = "texts.jsonl"
test = "texts.jsonl"
[tokenizer]
kind = "wordpiece"
vocab_size = 301
[model]
type = "bert"
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 4
intermediate_size = 32
max_position_embeddings = 32
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0
[training]
batch_tokens = 64
max_steps = 6
schedule = "constant"
warmup_steps = 2
learning_rate = 0.01
adam_epsilon = 1e-4
validate_every = 3
log_every = 1
[cost]
energy = false
"""
STUDENT = ["distillation.teacher=teacher", "distillation.hidden_states=3.0", "model.hidden_size=8"]
SHARD = "processes.shard=true"
INSIDE = ["distillation.attention_relations=1.0", "distillation.task=0.0", "distillation.soft_targets=0.0"]
STAGES = [
    {"run": "teacher"},
    {"run": "whole", "changes": STUDENT},
    {"run": "sharded", "processes": 2, "changes": [*STUDENT, SHARD]},
    {"run": "chain", "processes": 2, "changes": [*STUDENT, SHARD], "stop": 4},
    {"run": "chain", "changes": STUDENT, "resume": True},
    {"run": "inside", "changes": [*STUDENT, *INSIDE]},
    {"run": "shared", "processes": 2, "changes": [*STUDENT, *INSIDE]},
    {"run": "in parts", "changes": [*STUDENT, *INSIDE, "training.micro_batches=3"]},
]


@pytest.mark.slow
def test_a_narrower_student_learns_over_shards_what_it_learns_alone(tmp_path):
    labels = {"good": "up", "fine": "up", "bad": "down", "poor": "down"}
    rows = [
        json.dumps({"text": f"this is {'very ' * (number**2 % 11)}{word} indeed", "label": label})
        for number, (word, label) in enumerate(list(labels.items()) * 10)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    command = [sys.executable, str(Path(__file__).with_name("cut_runs.py")), json.dumps(STAGES)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = [json.loads((tmp_path / f"{stage}.json").read_text()) for stage in range(len(STAGES))]
    assert [one["error"] for one in told] == [""] * len(STAGES)
    _, whole, sharded, begun, rest, *inside = (list(one["losses"].values()) for one in told)
    assert len(whole) == 6
    assert inside[0] != pytest.approx(whole, rel=1e-3)
    assert inside[1] == pytest.approx(inside[0], rel=2e-6)
    assert inside[2] == pytest.approx(inside[0], rel=2e-6)
    assert sharded == pytest.approx(whole, rel=2e-6)
    assert [*begun, *rest] == pytest.approx(whole, rel=2e-6)
    assert next(facts["step"] for _, facts, _ in standing(tmp_path / "sharded")) == 6
    assert not hasattr(regard.load(str(tmp_path / "sharded")).model, "learning")
