"""Steps of fixed shapes against the models' own: every family, random rows, beams and positions."""

import subprocess
import sys

import pytest
import torch
from generation.families import check_steps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engine import MODELS, WORDS, made

from regard import RegardError
from regard.generation.float8 import Float8Linear
from regard.generation.room import captured
from regard.generation.search import Search, search
from regard.generation.speculative import SourceDraft
from regard.generation.static import Static, prepare_static
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig
from regard.pipelines import load
from regard.sequences import Sequences


@pytest.fixture(params=list(MODELS))
def model(request):
    return made(request.param)


def static_of(model, precision="fp32", capture=None) -> Static:
    found = prepare_static(model, precision, capture)
    assert isinstance(found, Static)
    return found


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_steps_are_those_of_the_model(model, data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    static = static_of(model)
    check_steps(data, static, model, lengths, WORDS)


def test_answers_are_those_of_the_model(model):
    """Also long ones, which outgrow the first room, with sources that end before the others."""
    static = static_of(model)
    source = Sequences.of_ids([[5, 6, 7, 2], [8, 2], [9, 10, 11, 12, 13, 2]])
    bos = None if hasattr(model, "hidden") else 1
    ways = (
        Search(bos, 2, extra_length=10),
        Search(bos, 2, 4, 0.6, extra_length=10),
        Search(bos, -1, 2, 0.0, extra_length=62),
        Search(bos, 2, temperature=1.0, n_best=3, seed=4, extra_length=5),
    )
    for how in ways:
        ours, theirs = search(static, source, how), search(model, source, how)
        assert [[one.tokens for one in row] for row in ours] == [[one.tokens for one in row] for row in theirs]
        for found, expected in zip(ours, theirs, strict=True):
            assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=2e-4)


def test_several_tokens_are_read_at_once_and_taken_back(model):
    static, source = static_of(model), Sequences.of_ids([[5, 6, 7], [8, 9]])
    tokens = torch.tensor([[1, 11, 12, 13], [1, 14, 15, 16]])
    with torch.inference_mode():
        state = static.start(source)
        before = state.length
        logits, state = static.extend(tokens, state)
        state.cut(before + 2)
        again, _ = static.step(tokens[:, 2], state)
        own = model.start(source)
        for place in range(4):
            expected, own = model.step(tokens[:, place], own)
            torch.testing.assert_close(logits[:, place], expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(again, logits[:, 2], atol=2e-5, rtol=2e-5)


def test_a_draft_coverage_and_contrast_work_too():
    loaded = made("pre-norm")
    static, source = static_of(loaded), Sequences.of_ids([[5, 6, 7, 2], [8, 2]])
    short = {"bos": 1, "eos": 2, "extra_length": 5}
    for how in (Search(**short, beams=3, coverage_penalty=0.2), Search(**short, penalty_alpha=0.5, top_k=3)):
        ours, theirs = search(static, source, how), search(loaded, source, how)
        assert [row[0].tokens for row in ours] == [row[0].tokens for row in theirs]
    drafted = search(static, source, Search(1, 2, extra_length=20), draft=SourceDraft())
    plain = search(loaded, source, Search(1, 2, extra_length=20))
    assert [row[0].tokens for row in drafted] == [row[0].tokens for row in plain]


def test_a_room_is_used_again_and_keeps_nothing():
    """Not even numbers that are none: hidden is not the same as not there."""
    model = made("gpt")
    static, source, how = static_of(model), Sequences.of_ids([[5, 6, 7]]), Search(None, -1, extra_length=5)
    before = search(static, source, how)
    (room,) = static._idle
    with torch.inference_mode():
        for past in room.past:
            past.fill_(float("nan"))
    assert search(static, source, how) == before
    assert static._idle == [room]


def test_rows_that_nobody_wants_do_no_harm():
    """One far ahead of the others, which is left, and then stands where the table of positions ends."""
    model = made("gpt")
    static, source = static_of(model), Sequences.of_ids([[5] * 149, [6, 7], [8, 9]])
    with torch.inference_mode():
        ours, theirs = (one.start(source).select(torch.tensor([1, 2])) for one in (static, model))
        for _ in range(5):
            found, ours = static.step(torch.tensor([3, 4]), ours)
            expected, theirs = model.step(torch.tensor([3, 4]), theirs)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    with pytest.raises(RegardError, match="a text of 151 tokens is too long: the model takes 150"):
        search(static, Sequences.of_ids([[5] * 149]), Search(None, -1, extra_length=5))


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9995), ("fp8", 0.95)])
def test_rounded_weights_give_nearly_the_same_scores(model, precision, least):
    static, source = static_of(model, precision), Sequences.of_ids([[5, 6, 7], [8, 9, 10, 11]])
    with torch.inference_mode():
        found, _ = static.step(torch.tensor([1, 1]), static.start(source))
        expected, _ = model.step(torch.tensor([1, 1]), model.start(source))
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected).min() > least
    assert not torch.equal(found, expected)


@pytest.mark.parametrize(("outputs", "inputs", "bias"), [(1, 1, True), (17, 5, False), (48, 64, True)])
def test_a_product_in_8_bits_of_any_shape(outputs, inputs, bias):
    """Each number is off by a sixteenth of itself at most; rows and outputs of very different sizes do not matter."""
    linear = torch.nn.Linear(inputs, outputs, bias)
    with torch.no_grad():
        linear.weight *= torch.logspace(-3, 3, outputs)[:, None]
    x = torch.randn(7, inputs) * torch.logspace(-3, 3, 7)[:, None]
    most = x.abs() @ linear.weight.detach().abs().t() / 7 + 0.01 * linear(x).detach().abs()
    assert ((Float8Linear(linear)(x) - linear(x)).abs() <= most).all()


def test_weights_are_shared_where_they_are_not_rounded():
    model = made("post-norm")
    step = static_of(model).parts.decoder.layers[1]
    own = model.decoder.layers[1]
    for ours, theirs in (
        (step.feed_forward.inner, own.feed_forward.inner),
        (step.cross_attention, own.cross_attention),
    ):
        ours, theirs = getattr(ours, "projection", ours), getattr(theirs, "projection", theirs)
        assert ours.weight.data_ptr() == theirs.weight.data_ptr()


def test_a_step_done_twice_is_as_done_once(model):
    """That is how a graph is warmed up."""
    static, source = static_of(model), Sequences.of_ids([[5, 6, 7], [8, 9]])
    with torch.inference_mode():
        _, state = static.step(torch.tensor([1, 1]), static.start(source).select(torch.tensor([0, 0, 1, 1])[:2]))
        entering = torch.full((state.room.table[..., 0].numel(), 1), 5)
        first = state.room.logits(entering)
        assert torch.equal(first, state.room.logits(entering))


def test_a_pipeline_takes_captured_steps_when_asked():
    loaded = load("g2p", capture="none", precision="bf16")
    assert isinstance(loaded.generator(), Static)
    assert loaded.generator() is loaded.generator()
    exact = load("g2p", capture="none")
    assert exact.translate(["python", "attention"], beams=4) == load("g2p").translate(["python", "attention"], beams=4)


def refuses(*_, **__):
    raise RuntimeError("only on newer ones\nand more lines")


def test_what_cannot_be_is_said(monkeypatch):
    model = made("gpt")
    for arguments, message in (
        (("int8",), "precision of captured steps is one of fp32, bf16, fp8, not 'int8'"),
        (("fp32", "always"), "capture of captured steps is one of none, compile, graph, not 'always'"),
        (("fp32", "graph"), "capture graph is for a model on a CUDA device, not on cpu"),
    ):
        with pytest.raises(RegardError, match=message):
            prepare_static(model, *arguments)
    recurrent = Seq2Seq(Seq2SeqConfig(vocab_size=WORDS, target_vocab_size=WORDS, hidden_size=8, embedding_size=8))
    assert prepare_static(recurrent) is recurrent
    with pytest.raises(RegardError, match="a Seq2Seq has no such steps"):
        prepare_static(recurrent, capture="compile")
    monkeypatch.setattr(torch, "_scaled_mm", refuses)
    with pytest.raises(RegardError, match=r"needs a device that multiplies in it; cpu does not \(only on newer ones\)"):
        load("g2p", precision="fp8", capture="none")
    with pytest.raises(RegardError, match="precision is one of fp32, bf16, int8, not 'fp8'"):
        load("g2p", precision="fp8")
    with pytest.raises(RegardError, match="device 'gpu' cannot be used here"):
        load("g2p", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(RegardError, match="device 'cuda' cannot be used here"):
            load("g2p", device="cuda")


COMPILED = """
import torch
from regard.generation.search import Search, search
from regard.generation.room import captured
from regard.generation.speculative import SourceDraft
from regard.generation.static import prepare_static
from regard.models.gpt import GPT, GPTConfig
from regard.sequences import Sequences
torch.manual_seed(0)
model = GPT(GPTConfig(vocab_size=37, n_embd=24, n_layer=1, n_head=3, n_positions=150)).eval()
static, source = prepare_static(model, capture="compile"), Sequences.of_ids([[5, 6, 7], [8]])
for how in (Search(None, -1, extra_length=12), Search(None, -1, 3, extra_length=12)):
    ours, theirs = search(static, source, how), search(model, source, how)
    assert [row[0].tokens for row in ours] == [row[0].tokens for row in theirs]
    assert all(abs(a[0].score - b[0].score) < 1e-4 for a, b in zip(ours, theirs))
from torch._dynamo.utils import counters
print(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
"""


@pytest.mark.slow
def test_compiled_steps_are_one_graph_each():
    """In a process of its own: here shapes are checked at run time, which a compiler cannot look through."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "0"]


# --- on a GPU ---------------------------------------------------------------------------------------------------------

CLOSE = {"fp32": {"atol": 1e-3, "rtol": 1e-3}, "bf16": {"atol": 0.3, "rtol": 0.1}}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("capture", ["none", "graph", "compile"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_give_the_answers_of_the_model(model, capture, precision):
    model, source = model.cuda(), Sequences.of_ids([[5, 6, 7, 2], [8, 2]], "cuda")
    static = static_of(model, precision, capture)
    with torch.inference_mode():
        ours, theirs = static.start(source), model.start(source)
        for token in (1, 7, 9):
            tokens = torch.full((2,), token, device="cuda")
            found, ours = static.step(tokens, ours)
            expected, theirs = model.step(tokens, theirs)
            torch.testing.assert_close(found, expected, **CLOSE[precision])
    how = Search(None if hasattr(model, "hidden") else 1, 2, 4, extra_length=10)
    assert len(search(static, source, how)) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_step_is_replayed_over_what_its_tensors_hold_then():
    x = torch.ones(3, device="cuda")
    step = captured(lambda: x * 2, "graph", x.device)
    x.fill_(5.0)
    assert step().tolist() == [10.0, 10.0, 10.0]
