"""A guided head becomes the alignment it was given; a stopped run goes on as if it had not been."""

from pathlib import Path

import pytest
import torch

import regard
from regard import RegardError
from regard.explain.alignment import align
from regard.explain.links import alignment_error_rate
from regard.training.events import Stepped
from regard.training.recipe import parse_recipe
from regard.training.trainer import train

RECIPE = """
name = "guided"
[data]
train = "pairs.tsv"
valid = "pairs.tsv"
test = "pairs.tsv"
[tokenizer]
vocab_size = 320
[model]
d_model = 32
encoder_layers = 1
decoder_layers = 2
attention_heads = 2
ffn_dim = 32
dropout = 0.1
max_position_embeddings = 32
[training]
batch_tokens = 200
max_steps = 150
warmup_steps = 10
schedule = "linear"
learning_rate = 0.01
validate_every = 200
[guided]
links = "pairs.links"
layer = 1
head = 1
weight = 1.0
[score]
valid_examples = 1
test_examples = 1
beams = 1
"""
WORDS = ["red", "blue", "old", "new"]
PAIRS = [(f"the {a} {b} car", f"voiture {b}x {a}x la") for a in WORDS for b in WORDS]
LINKS = "0-3 1-2 2-1 3-0"  # backwards: nothing that attention would find by itself so soon


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    (tmp_path / "pairs.links").write_text(f"{LINKS}\n" * len(PAIRS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_rate(folder: str, after: bool) -> float:
    model = regard.load(folder)
    gold = [tuple(map(int, pair.split("-"))) for pair in LINKS.split()]
    rates = []
    for source, target in PAIRS[::5]:
        trace = model.trace([source], [model.codec.target.encode(target)[:-1]])
        found = align(trace, 1, 1, by_chunk=True, after=after).links()
        rates.append(alignment_error_rate(found, gold))
    return sum(rates) / len(rates)


@pytest.mark.parametrize("after", [True, False])
def test_the_head_becomes_the_alignment(after, place):
    told = str(after).lower()
    events = list(train(parse_recipe(RECIPE, "guided", [f"guided.after={told}"]), place / "run"))
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert losses[-1] < losses[0]
    assert error_rate("run", after) < 0.25
    list(train(parse_recipe(RECIPE, "guided", ["guided.links=''"]), place / "plain"))
    assert error_rate("plain", after) > 0.4


def test_a_stopped_run_goes_on_with_the_same_losses(place):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = parse_recipe(RECIPE, "guided", ["training.max_steps=12"])
    whole = [event.loss for event in train(recipe, place / "whole") if isinstance(event, Stepped)]
    stopped = train(recipe, place / "stopped")
    first = []
    for event in stopped:
        if isinstance(event, Stepped):
            first.append(event.loss)
            if event.step == 5:
                break
    stopped.close()
    rest = [event.loss for event in train(recipe, place / "stopped", resume=True) if isinstance(event, Stepped)]
    torch.set_num_threads(threads)
    assert first + rest == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["guided.layer=2"], r"guided.layer 2, head 1: there are layers 0 to 1, heads 0 to 1"),
        (["guided.links='none.links'"], "none.links cannot be read"),
        (["guided.links='short.links'"], "short.links has 1 lines for 16 training pairs"),
        (["guided.links='wrong.links'"], r"wrong.links, line 1: links read 0-0 1-2, not '0:0'"),
        (["guided.heads=2"], "guided.heads"),
        (["model.type='rnnsearch'"], "."),
    ],
)
def test_what_is_wrong_is_told(place, changes, message):
    (place / "short.links").write_text("0-0\n")
    (place / "wrong.links").write_text("0:0\n" * len(PAIRS))
    with pytest.raises(RegardError, match=message):
        list(train(parse_recipe(RECIPE, "guided", changes), place / "run"))
