"""Every view of every family that can give it: it says something true, and shows itself in every way."""

import json

import pytest
import torch
from explain.families import BERT, built, traced
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from regard import RegardError, Sequences, Trace
from regard.explain.attribution import attribution
from regard.explain.context import compare
from regard.explain.contribution import alti, alti_layer, contribution
from regard.explain.generation import generation, source_and_target
from regard.explain.head_kinds import head_kinds
from regard.explain.lens import lens
from regard.explain.recurrence import read
from regard.explain.render.figure import _bars, figure
from regard.explain.render.page import page
from regard.explain.result import Result, Table, as_csv
from regard.explain.similarity import similarity
from regard.explain.views import VIEWS, Options, ask
from regard.explain.walkthrough import walk
from regard.generation.search import Search, search
from regard.models.bert import Bert, BertConfig

NAMES = ["transformer", "pre-norm", "t5", "gpt", "gpt2", "llama", "bert", "classifier", "albert"]
RECURRENT = ["seq2seq", "rnnsearch", "awd_lstm"]
CANNOT = {
    "context": RECURRENT,
    "contribution": RECURRENT,
    "attribution": ["awd_lstm"],
    "alignment": ["gpt", "gpt2", "llama", "bert", "classifier", "albert", "seq2seq", "awd_lstm"],
    "lens": ["classifier", *RECURRENT],
    "heads": RECURRENT,
    "generation": ["gpt", "gpt2", "llama", "bert", "classifier", "albert", "awd_lstm"],  # without `prompts`
    "intervention": RECURRENT,
}


def words_shared(name):
    """Two texts that share a token, named by it."""
    trace = traced(name, (5, 5))
    ids = trace.source.values.clone()
    ids[4] = ids[9] = 7
    return Trace(trace.model, trace.source.with_values(ids), trace.target)


def shown(results):
    """In every way there is."""
    drawn = page("tiny", ["text"], ["answer"], results)
    assert drawn.startswith("<!doctype html>")
    assert "http" not in drawn.replace("http-equiv", "")
    lines = as_csv(results).splitlines()
    assert lines[0] == "view,block,row,column,value"
    figure(results)
    for result in results:
        assert isinstance(result, Result)
        assert str(result).strip()
        assert result.title
        json.dumps(result.to_dict())
        assert result.to_dict()["view"] == result.view
        assert result._repr_html_().startswith("<div")
        assert "<section" in result.to_html()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", NAMES + RECURRENT)
def test_every_view_of_every_family(name, view):
    trace = words_shared(name)
    if name in CANNOT.get(view, ()):
        with pytest.raises(RegardError):
            ask(trace, [view], Options(query="7" if view == "context" else None))
        return
    shown(ask(trace, [view], Options(query="7" if view == "context" else None)))


def test_what_is_not_known_is_told():
    trace = traced("gpt")
    for names, options, message in [
        (["lense"], Options(), "no view 'lense'; did you mean lens"),
        (["heads"], Options(method="alti"), "heads takes no method: that is for contribution, attribution, alignment"),
        (["contribution"], Options(method="alto"), "no method 'alto'; did you mean alti"),
        (
            ["intervention"],
            Options(edits=("decoder.layers.0.self_attention heat=3",)),
            "'heat=3' is no part of an edit",
        ),
        (["intervention"], Options(edits=("decoder.layers.9.self_attention",)), "no place 'decoder.layers.9"),
        (["intervention"], Options(edits=("decoder.layers.0 head=1",)), "is no attention with heads"),
        (["intervention"], Options(edits=("decoder.layers.0.self_attention head=8",)), "no head 8"),
        (["intervention"], Options(edits=("decoder.layers.0.self_attention key=80",)), "no position 80"),
        (
            ["intervention"],
            Options(edits=("decoder.layers.0.self_attention query=1 weights=1,0",)),
            "7 weights here, not 2",
        ),
        (["intervention"], Options(edits=("decoder.layers.0.self_attention weights=1,0",)), "add query=0"),
        (["intervention"], Options(edits=("decoder.layers.0 position=1",)), "needs both"),
        (["intervention"], Options(sweep="all"), "no sweep 'all'"),
        (["lens"], Options(answer="xyzzy"), "no token of the vocabulary reads 'xyzzy'"),
        (["alignment"], Options(), "no attention to align by"),
        (["generation"], Options(), "covers no generated text"),
        (["walkthrough"], Options(kind="cross"), "has no decoder|no cross-attention"),
    ]:
        with pytest.raises(RegardError, match=message):
            ask(trace, names, options)
    with pytest.raises(RegardError, match="no attention to align by: it is between source and answer"):
        ask(traced("bert"), ["alignment"], Options())
    with pytest.raises(RegardError, match="two or more that share a word"):
        ask(traced("bert", (4,)), ["context"], Options())
    with pytest.raises(RegardError, match="flow from all 25 tokens takes long"):
        contribution(traced("bert", (25,)), method="flow")


@pytest.mark.parametrize("name", ["transformer", "pre-norm", "gpt2", "llama", "bert"])
@pytest.mark.parametrize("method", ["norm", "alti", "rollout", "flow"])
def test_contributions_are_shares(name, method):
    trace = traced(name, (6, 3))
    found = contribution(trace, method=method)
    assert found.shares.shape == (6, 6)
    assert (found.shares >= 0).all()
    torch.testing.assert_close(found.shares.sum(dim=-1), torch.ones(6))
    if name in ("gpt2", "llama"):
        assert found.shares.triu(1).abs().max() < 1e-6  # nothing comes from the future
    one = contribution(trace, found.words[3], method=method)
    if found.words.count(found.words[3]) == 1:
        torch.testing.assert_close(one.shares[0], found.shares[3], atol=1e-5, rtol=0)
    assert one.difference < 1e-4


def test_rollout_is_the_product_of_the_papers_formula():
    trace = traced("bert", (5,))
    expected = torch.eye(5)
    for place in trace.stack():
        weights = trace.steps(place)["self_attention.weights"].mean(dim=0)
        expected = (0.5 * weights + 0.5 * torch.eye(5)) @ expected
    torch.testing.assert_close(contribution(trace, method="rollout").shares, expected, atol=1e-6, rtol=0)


def test_flow_through_one_layer_is_the_weight_and_through_two_the_widest_paths():
    trace = traced("bert", (4,))
    first = 0.5 * trace.steps(trace.stack()[0])["self_attention.weights"].mean(dim=0) + 0.5 * torch.eye(4)
    torch.testing.assert_close(contribution(trace, layer=0, method="flow").shares, first, atol=1e-5, rtol=0)
    second = 0.5 * trace.steps(trace.stack()[1])["self_attention.weights"].mean(dim=0) + 0.5 * torch.eye(4)
    flows = torch.minimum(second[:, :, None], first[None]).sum(dim=1)  # two layers: paths share no edge
    flows = flows / flows.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(contribution(trace, method="flow").shares, flows, atol=1e-5, rtol=0)


def test_norms_are_those_of_weighted_transformed_vectors():
    trace = traced("gpt2", (5,))
    layer = trace.model.decoder.layers[1]
    steps = trace.steps("decoder.layers.1")
    output = layer.self_attention.output.weight.view(12, 3, 4)
    expected = torch.zeros(5, 5)
    for query in range(5):
        for key in range(5):
            vector = sum(
                steps["self_attention.weights"][head, query, key]
                * (output[:, head] @ steps["self_attention.values"][head, key])
                for head in range(3)
            )
            expected[query, key] = vector.norm()
    expected = expected / expected.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(contribution(trace, method="norm").shares, expected, atol=1e-5, rtol=0)


@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_source_and_target_shares_sum_to_one(lengths):
    for name in ("transformer", "pre-norm"):
        trace = traced(name, lengths)
        for row, length in enumerate(lengths):
            shares = source_and_target(trace, row)
            assert shares.shape == (length + 1, 2 * length + 1)
            torch.testing.assert_close(shares.sum(dim=-1), torch.ones(length + 1), atol=1e-5, rtol=0)
            assert shares[:, length:].triu(1).abs().max() < 1e-6
            torch.testing.assert_close(
                alti(trace, trace.stack(), row).sum(dim=-1), torch.ones(length), atol=1e-5, rtol=0
            )
            assert alti_layer(trace, "decoder.layers.0.cross_attention", row).shape == (length + 1, length + 1)


@pytest.mark.parametrize("name", ["transformer", "pre-norm", "t5", "gpt", "gpt2", "llama", "bert"])
def test_the_lens_ends_with_the_answer(name):
    trace = traced(name)
    found = lens(trace, 1)
    logits = trace.logits()[1]
    assert found.token == int(logits.argmax())
    assert found.lens.ranks[-1] == 1
    assert found.lens.probabilities[-1] == pytest.approx(float(logits.softmax(dim=-1).max()), abs=1e-5)
    if name in ("transformer", "pre-norm", "t5", "gpt", "gpt2", "llama"):
        assert found.parts
        assert sum(value for _, value in found.parts) == pytest.approx(float(logits[found.token]), abs=1e-4)
    other = lens(trace, 1, token=5)
    assert (other.token, other.word) == (5, "5")


def test_the_lens_of_a_hidden_word():
    trace = traced("bert")
    trace.pieces = {}
    assert lens(trace, 2).to_dict()["at"] == str(int(trace.source[0][2]))


@pytest.mark.parametrize("name", ["gpt2", "bert", "transformer"])
def test_words_are_alike_as_their_dot_products_say(name):
    trace = traced(name, (5, 3))
    found = similarity(trace, layer=1, count=3)
    vectors = torch.cat([trace.hidden(1, 0), trace.hidden(1, 1)])
    torch.testing.assert_close(found.dots, vectors @ vectors.T)
    lengths = vectors.norm(dim=-1)
    torch.testing.assert_close(found.cosines, found.dots / lengths[:, None] / lengths, atol=1e-5, rtol=0)
    table = (trace.model.embeddings.words if name == "bert" else trace.model.embedding).weight.detach()
    own = table[int(trace.source[0][0])]
    best = max(
        range(29),
        key=lambda token: (
            float(torch.cosine_similarity(table[token], own, dim=0)) - 9 * (token == int(trace.source[0][0]))
        ),
    )
    assert found.table[0].text == str(best)
    assert found.table[0].dot == pytest.approx(float(table[best] @ own), abs=1e-4)


def test_heads_made_by_hand_are_known():
    """A head whose queries and keys are positions looks where it was told to."""
    model = Bert(BertConfig(**{**BERT, "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 1})).eval()
    length, width = 14, 16
    with torch.no_grad():
        embeddings = model.embeddings
        embeddings.words.weight.zero_()
        embeddings.positions.table.weight.zero_()
        embeddings.positions.table.weight[:16, :16] = torch.eye(16)  # one channel a position
        embeddings.words.weight[:29, 16:45] = torch.eye(29)  # one a token
        if embeddings.segments is not None:
            embeddings.segments.weight.zero_()
        projection = model.encoder.layers[0].self_attention.projection
        projection.weight.zero_()
        projection.bias.zero_()
        for head, step in enumerate((-1, 1, None)):
            for place in range(width):
                if step is None:  # tokens, 16 of them
                    projection.weight[head * width + place, 16 + place] = 30.0
                    projection.weight[48 + head * width + place, 16 + place] = 30.0
                elif 0 <= place + step < width:
                    projection.weight[head * width + place + step, place] = 30.0
                    projection.weight[48 + head * width + place, place] = 30.0
                    projection.weight[48 + head * width + place + step, place + step] = 30.0
    ids = [3, 4, 5, 3, 6, 7, 4, 8, 9, 3, 10, 11, 12, 13]
    found = head_kinds(Trace(model, Sequences.of_ids([ids[:length]])))
    assert found.kind(0, 0) == "previous"
    assert found.kind(0, 1) == "next"
    assert found.scores["same word"][0, 2] > 0.4
    assert found.scores["previous"][0, 0] > 0.8


@pytest.mark.parametrize(
    "name", ["transformer", "gpt", "gpt2", "llama", "bert", "classifier", "albert", "rnnsearch", "seq2seq"]
)
def test_attributions_add_up(name):
    trace = traced(name, (5, 3))
    found = attribution(trace, steps=200)
    assert len(found.values) == 5
    assert sum(found.values) == pytest.approx(
        found.score - found.baseline, abs=0.05 * max(1.0, abs(found.score - found.baseline))
    )
    left_out = attribution(trace, method="occlusion")
    assert left_out.answer == found.answer
    assert left_out.score == pytest.approx(found.score, abs=1e-4)
    assert len(attribution(trace, method="gradient_x_input").values) == 5


def test_occlusion_is_what_is_lost():
    trace = traced("gpt2", (5,))
    found = attribution(trace, method="occlusion")
    x = trace.entering("decoder.layers.0").clone()
    x[2] = 0
    chosen = int(trace.logits()[-1].argmax())
    with torch.no_grad():
        logits = trace.model.logits(trace.model.decoder(trace.source.with_values(x)).values)
    lost = found.score - float(logits[-1, chosen])
    assert found.values[2] == pytest.approx(lost, abs=1e-4)


def test_the_beam_is_a_tree_of_all_that_was_followed():
    trace, model, seen = traced("transformer", (4,)), built("transformer"), []
    how = Search(1, 2, 3, 0.6, extra_length=3)
    best = search(model, trace.source, how, seen)[0][0]
    target = Sequences.of_ids([[1, *best.tokens]])
    found = generation(Trace(model, trace.source, target), seen)
    assert len(list(found.tree.numbers())) == len({beam for _, beam, _ in seen}) + 1
    chosen, node = [], found.tree
    while following := [child for child in node.children if child.chosen]:
        node = following[0]
        chosen.append(node)
    assert [int(one.label) for one in chosen] == [one.token for one in chosen] == list(best.tokens)[: len(chosen)]
    for one, produced in zip(chosen, found.produced, strict=False):
        assert one.probability == pytest.approx(produced.probability, abs=1e-4)


def test_generated_text_of_a_language_model():
    model = built("gpt2")
    prompt = Sequences.of_ids([[5, 6, 7], [8]])
    found = search(model, prompt, Search(None, -1, extra_length=4))
    whole = [[*row.tolist(), *one[0].tokens] for row, one in zip(prompt, found, strict=True)]
    trace = Trace(model, Sequences.of_ids(whole))
    trace.prompts = [3, 1]
    for row, one in enumerate(found):
        view = generation(trace, row=row)
        assert [produced.token for produced in view.produced] == list(one[0].tokens)
        total = sum(torch.tensor([produced.probability for produced in view.produced]).log().tolist())
        assert total == pytest.approx(one[0].log_probability, abs=1e-3)
        assert all(produced.alternatives[0][0] == produced.text for produced in view.produced)  # greedy


def test_what_pushed_a_word_apart_adds_up_to_the_gap():
    for name in ("transformer", "pre-norm", "bert", "gpt2"):
        trace = words_shared(name)
        found = compare(trace, ["one", "two"], "7")
        pushed = sum(value for _, value in found.pushes[1])
        last = trace.stack()[-1]
        places = [
            next(iter(trace.words(row)[[word.text for word in trace.words(row)].index("7")].places)) for row in (0, 1)
        ]
        first, second = (trace.leaving(last, row)[place] for row, place in enumerate(places))
        line = (second - first) / (second - first).norm()
        assert pushed == pytest.approx(float(second @ line), abs=1e-4)
        assert found.gaps[1] == pytest.approx(float((second - first).norm()), abs=1e-4)


@pytest.mark.parametrize("name", ["transformer", "pre-norm", "t5"])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_any_attention_is_walked_through(name, kind):
    trace = traced(name)
    found = walk(trace, 2, 1, 1, kind=kind)
    attention = "cross_attention" if kind == "cross" else "self_attention"
    side = "encoder" if kind == "encoder" else "decoder"
    assert (found.attention, found.place) == (attention, f"{side}.layers.1")
    torch.testing.assert_close(found.weights.sum(dim=-1), torch.ones(3))
    assert found.weights.shape[1] == {"encoder": 7, "decoder": 3, "cross": 7}[kind]
    assert found.difference < 1e-5
    shown([found])


@pytest.mark.parametrize(
    ("name", "side"), [("seq2seq", "decoder"), ("rnnsearch", "decoder"), ("rnnsearch", "encoder"), ("awd_lstm", None)]
)
def test_any_recurrent_layer_is_read(name, side):
    found = read(traced(name), 1, side=side)
    assert found.gates
    assert found.difference < 1e-5
    shown([found])


def test_bars_below_zero_have_a_name_of_their_own():
    table = Table("pushes", ["from", "push"], [["its embedding", -0.5], ["crawls", 1.5]])
    axis = Figure().subplots()
    _bars(axis, table)
    legend = axis.get_legend()
    told = {
        text.get_text(): patch.get_facecolor() for text, patch in zip(legend.texts, legend.legend_handles, strict=True)
    }
    assert list(told) == ["push", "below zero"]
    assert told["push"] == axis.patches[1].get_facecolor()
    assert told["below zero"] == axis.patches[0].get_facecolor()
