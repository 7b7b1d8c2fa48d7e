"""Compiling changes no number: losses of a run with and without it."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from regard.training.events import Stepped
from regard.training.recipe import parse_recipe
from regard.training.trainer import train

torch.set_num_threads(1)

def losses(folder, *changes):
    recipe = parse_recipe(Path("tiny.toml").read_text(), "tiny.toml", list(changes))
    return [event.loss for event in train(recipe, Path(folder)) if isinstance(event, Stepped)]

for dropout in ("0.0", "0.1"):
    change = f"model.dropout={dropout}"
    plain, compiled = losses("plain" + dropout, change), losses("fast" + dropout, change, "training.compile=true")
    print(max(abs(a - b) / a for a, b in zip(plain, compiled, strict=True)), compiled[-1] / plain[0])
print(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
"""
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
max_position_embeddings = 32
[training]
batch_tokens = 60
max_steps = 40
warmup_steps = 5
learning_rate = 0.01
validate_every = 40
[score]
valid_examples = 2
test_examples = 2
[cost]
energy = false
"""


@pytest.mark.slow
def test_compiled_training_has_the_losses_of_plain_training(tmp_path: Path):
    """With dropout too: none is drawn in what is compiled, and compiling draws no random numbers.

    In a process of its own: here shapes are checked at run time, which a compiler cannot look through.
    """
    words = ["cat", "dog", "fox", "owl"]
    rows = [f"the {a} sees the {b}\tle {a} voit le {b}\n" for a in words for b in words]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=True)
    *runs, last = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert len(runs) == 2
    for difference, fell in runs:
        assert difference < 1e-5
        assert fell < 0.5
    graphs, breaks = last
    assert graphs >= 1
    assert breaks == 0
