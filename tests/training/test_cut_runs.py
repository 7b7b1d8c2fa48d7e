"""Runs of a cut model: checkpoints that any number of processes open, resumption bit for bit, kill -9, damage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regard import RegardError
from regard.training.checkpoints import standing
from regard.training.events import Validated, read_log
from regard.training.placement import check_layout
from regard.training.recipe import parse_recipe
from regard.training.workers import Workers

RECIPE = """
name = "tiny"
[data]
train = "pairs.tsv"
valid = "pairs.tsv"
test = "pairs.tsv"
[tokenizer]
vocab_size = 400
[model]
d_model = 16
encoder_layers = 1
decoder_layers = 1
attention_heads = 2
ffn_dim = 32
dropout = 0.0
max_position_embeddings = 32
[training]
batch_tokens = 70
max_steps = 12
warmup_steps = 5
learning_rate = 0.01
validate_every = 6
average = 2
clip_norm = 1.0
ema_decay = 0.9
adam_epsilon = 1e-4
log_every = 1
[cost]
energy = false
[score]
valid_examples = 2
test_examples = 2
beams = 1
"""
SHARD, TOGETHER, DROPOUT = "processes.shard=true", "processes.tensor_parallel=2", "model.dropout=0.1"
OFTEN = "training.checkpoint_every=2"
LESS = ["training.micro_batches=2", "training.activation_checkpointing=true"]  # of memory
STAGES = [
    {"run": "whole"},
    {"run": "chain", "stop": 4},
    {"run": "chain", "processes": 2, "changes": [SHARD, *LESS], "resume": True, "stop": 7},
    {"run": "chain", "processes": 4, "changes": [SHARD, TOGETHER], "resume": True, "stop": 9},
    {"run": "chain", "processes": 2, "changes": [TOGETHER], "resume": True, "stop": 10},
    {"run": "chain", "resume": True},
    {"run": "sharded", "processes": 2, "changes": [SHARD, DROPOUT, OFTEN]},
    {"run": "stopped", "processes": 2, "changes": [SHARD, DROPOUT, OFTEN], "full": 4},
    {"run": "stopped", "processes": 2, "changes": [SHARD, DROPOUT, OFTEN], "resume": True,
     "damage": "checkpoint/shard-00002-model-00001-of-00001.safetensors"},
    {"run": "killed", "processes": 2, "changes": [SHARD, DROPOUT, OFTEN], "kills": 2, "seed": 1},
    {"run": "shared", "processes": 2, "changes": [DROPOUT, OFTEN]},
    {"run": "shared killed", "processes": 2, "changes": [DROPOUT, OFTEN], "kills": 2, "seed": 2},
    {"run": "alone", "changes": [DROPOUT, OFTEN]},
    {"run": "alone killed", "changes": [DROPOUT, OFTEN], "kills": 2, "seed": 3},
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages were run."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["cat", "dog", "fox", "owl", "bee"]
    rows = [f"the {a} sees the {b}{' again' * (a < b)}\tle {a} voit le {b}\n" for a in words for b in words]
    (folder / "pairs.tsv").write_text("".join(rows))
    (folder / "tiny.toml").write_text(RECIPE)
    command = [sys.executable, str(Path(__file__).with_name("cut_runs.py")), json.dumps(STAGES)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def told(place: Path, stage: int) -> dict:
    found = json.loads((place / f"{stage}.json").read_text())
    assert not found["error"]
    return found


def losses(run: Path) -> list[tuple]:
    """Of every step, and of every validation."""
    return [(type(event).__name__, event.step, event.loss) for event in read_log(run) if hasattr(event, "loss")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_run_moves_between_one_two_and_four_processes_and_nothing_changes(place):
    assert [told(place, stage)["begun"] for stage in range(1, 6)] == [0, 4, 7, 9, 10]
    ours, theirs = losses(place / "chain"), losses(place / "whole")
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=2e-6)
    right = weights(place / "whole")
    for name, value in weights(place / "chain").items():
        torch.testing.assert_close(value, right[name], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_full_disk_of_one_process_stops_all_and_keeps_the_last_checkpoint(place):
    stopped = json.loads((place / "7.json").read_text())
    assert stopped["error"] == (
        "cannot write stopped/checkpoint: No space left on device; nothing was changed; the last good checkpoint is of "
        "step 6"
    )
    assert list(stopped["losses"])[-1] == "8"
    assert list(place.rglob("*.partial")) == []


@pytest.mark.slow
def test_a_damaged_part_is_told_and_the_checkpoint_before_gone_on_from(place):
    begun = told(place, 8)
    assert begun["begun"] == 4
    assert "is damaged: the digest of shard-00002-model-00001-of-00001.safetensors is another one" in begun["note"]
    assert begun["note"].endswith("; going on from the one before it, of step 4")
    assert losses(place / "stopped") == losses(place / "sharded")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "whole"), [("killed", "sharded"), ("shared killed", "shared"), ("alone killed", "alone")]
)
def test_killed_at_random_moments_it_goes_on_bit_for_bit(place, killed, whole):
    assert losses(place / killed) == losses(place / whole)
    ours, theirs = weights(place / killed), weights(place / whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_the_first_process_alone_writes_model_and_log(place):
    assert {path.name for path in (place / "sharded").iterdir()} == {
        "checkpoint", "checkpoint.previous", "log.jsonl", "model", "tokenizer.json",
    }  # fmt: skip
    assert [event.step for event in read_log(place / "sharded") if isinstance(event, Validated)] == [6, 12]
    assert [facts["step"] for _, facts, _ in standing(place / "sharded")] == [12, 10]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ([SHARD, "training.optimizer=muon"], "muon needs whole matrices, and processes.shard cuts them"),
        ([TOGETHER, "training.optimizer=muon"], "muon needs whole matrices, and processes.tensor_parallel cuts them"),
        ([SHARD, "guided.links=links"], "guided attention reads a layer's weights"),
        ([SHARD, "distillation.attention_relations=1.0"], "attention_relations reads a layer's weights"),
        ([TOGETHER, "training.compile=true"], "training.compile does not go with processes.tensor_parallel"),
        (["processes.tensor_parallel=0"], "processes.tensor_parallel: .*greater than 0"),
    ],
)
def test_what_needs_whole_weights_is_refused_where_they_are_cut(changes, match):
    with pytest.raises(RegardError, match=match):
        parse_recipe(RECIPE, "tiny.toml", changes)


def test_layers_that_begin_to_learn_later_are_refused_where_weights_are_cut():
    text = 'name = "tiny"\ntask = "language-model"\n[data]\ntrain = "a"\nvalid = "a"\ntest = "a"\n'
    text += '[tokenizer]\nkind = "bytes"\n[model]\ntype = "gpt"\n[training]\nunfreeze_every = 5\n'
    parse_recipe(text, "tiny.toml", [])
    with pytest.raises(RegardError, match="unfreeze_every changes which weights learn, and processes.shard cuts them"):
        parse_recipe(text, "tiny.toml", [SHARD])


def test_recurrent_systems_have_no_heads_to_cut():
    text = 'name = "tiny"\n[data]\nsource = "cmudict"\n[model]\ntype = "rnnsearch"\n'
    with pytest.raises(RegardError, match="tensor_parallel cuts heads of attention .*, not rnnsearch"):
        parse_recipe(text, "tiny.toml", [TOGETHER])


def test_processes_have_to_make_whole_groups():
    recipe = parse_recipe(RECIPE, "tiny.toml", [TOGETHER])
    check_layout(recipe, Workers(0, 4))
    with pytest.raises(RegardError, match=r"needs 2 processes or a multiple, not 3: torchrun --nproc-per-node 4 -m"):
        check_layout(recipe, Workers(0, 3))
