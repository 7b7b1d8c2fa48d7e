"""The walkthrough is the computation itself: each step follows from the one before, and the last is the fast run's."""

import io
import json
import math

import pytest
import torch
from rich.console import Console

from regard import RegardError
from regard.explain.render import terminal
from regard.explain.render.blocks import bar, sparkline
from regard.explain.result import Equation

TEXT = "Python executes quickly"


def test_each_step_follows_from_the_one_before(model):
    walk = model.explain(TEXT, query="executes", layer=1, head=2).walkthrough
    steps, head = walk.steps, walk.head
    query, keys = steps["self_attention.queries"][head, 0], steps["self_attention.keys"][head]
    scores = torch.tensor([sum(a * b for a, b in zip(query.tolist(), key.tolist(), strict=True)) for key in keys])
    assert torch.allclose(steps["self_attention.scores"][head, 0], scores, atol=1e-5)
    scaled = scores / math.sqrt(len(query))
    weights = scaled.exp() / scaled.exp().sum()
    assert torch.allclose(steps["self_attention.weights"][head, 0], weights, atol=1e-5)
    mixed = (weights[:, None] * steps["self_attention.values"][head]).sum(0)
    assert torch.allclose(steps["self_attention.mixed"][head, 0], mixed, atol=1e-5)
    assert walk.difference < 1e-5


def test_weights_over_words_sum_to_one_in_every_head(model):
    walk = model.explain(TEXT).walkthrough
    assert walk.weights.shape == (4, len(walk.words))
    assert torch.allclose(walk.weights.sum(-1), torch.ones(4))


def test_the_embedding_is_scaled_and_placed(model):
    walk = model.explain(TEXT, query="executes").walkthrough
    token = model.codec.source.encode(TEXT)[walk.piece]
    assert torch.allclose(walk.embedding["lookup"][0], model.model.embedding.weight[token] * 4)  # sqrt(16)
    assert walk.embedding["encoding"][0, 0].item() == pytest.approx(math.sin(walk.piece))


def test_the_default_head_is_the_one_that_looks_most_sharply_at_another_word(model):
    walk = model.explain(TEXT).walkthrough
    others = walk.weights.clone()
    others[:, walk.query] = others[:, -1] = 0  # itself, and the end token, are no other word
    assert others[walk.head].max() == others.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 2}, "no layer 2: there are layers 0 to 1"),
        ({"layer": -1}, "no layer -1"),
        ({"head": 4}, "no head 4: there are heads 0 to 3"),
        ({"query": "snail"}, "no word 'snail'"),
    ],
)
@pytest.mark.parametrize("texts", [[TEXT], [TEXT, "Python crawls quickly"]])
def test_what_is_out_of_range_is_told_with_what_is_not(model, texts, options, message):
    with pytest.raises(RegardError, match=message):
        model.explain(*texts, **options)


def test_a_word_in_two_texts_starts_the_same_and_parts(model):
    context = model.explain(TEXT, "Python crawls quickly").context
    assert context.word == "Python"
    assert context.distances[0, 0, 1] == pytest.approx(0, abs=1e-4)  # same word, same position
    assert context.distances[-1, 0, 1] > 0.01
    assert all(sum(mixture.weights) == pytest.approx(1) for mixture in context.mixtures)


def test_the_equation_reads_as_in_the_notes():
    mixture = Equation("", "Python", ["Python", "crawls", "quickly"], [0.4, 0.4, 0.2])
    assert str(mixture) == "e(Python) = 0.40 e(Python) + 0.40 e(crawls) + 0.20 e(quickly)"


def test_the_alignment_is_cross_attention_joined_to_words(model):
    [alignment] = model.explain(TEXT).alignments
    assert torch.allclose(alignment.weights.sum(-1), torch.ones(len(alignment.target)))
    for pair in alignment.pharaoh().split():
        source, target = map(int, pair.split("-"))
        assert 0 <= source < 3
        assert target >= 0


def test_an_explanation_is_plain_json(model):
    explanation = model.explain(TEXT, "Python crawls quickly")
    read = json.loads(json.dumps(explanation.to_dict()))
    assert read["walkthrough"]["weights"] == explanation.walkthrough.weights.tolist()
    assert read["context"]["equations"][1]["words"] == ["Python", "crawls", "quickly", "</s>"]


STEPS = [
    "Embedding plus position",
    "Query, keys, values",
    "softmax",
    "Weighted sum",
    "side by side",
    "Concatenate and project",
    "Feed-forward",
    "largest difference",
    "e(Python) = ",
    "Cross-attention",
]


def test_the_terminal_shows_every_step_and_the_proof(model):
    found = model.explain(TEXT, "Python crawls quickly")
    console = Console(width=160, file=io.StringIO())
    console.print(terminal.explanation(found.texts, found.answers, found.results))
    text = console.file.getvalue()
    assert [title for title in STEPS if title not in text] == []


def test_bars_are_as_long_as_the_share():
    assert bar(1.0, 4) == "████"
    assert bar(0.5, 4) == "██"
    assert bar(0.0, 4) == ""
    assert bar(1 / 32, 4) == "▏"
    assert sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
