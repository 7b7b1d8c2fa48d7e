"""The engine's Whisper against the model itself: what it hears (long texts), its prompt, and what it may not say."""

import pytest
import torch

from regard.generation.encoding import prepare_encoder
from regard.generation.engine import Engine, prepare
from regard.generation.search import Search, search, search_waiting
from regard.generation.waiting import Waiting
from regard.models.bert import Bert, BertConfig
from regard.models.whisper import Whisper, WhisperConfig
from regard.native import library
from regard.native.matrices import PRECISIONS
from regard.sequences import Sequences

pytestmark = pytest.mark.skipif(library() is None, reason="the native kernels were not built")

WORDS, BANDS = 41, 7
PROMPT = (3, 4, 5)


def made(heads: int = 3, width: int = 24, prompt: tuple[int, ...] = PROMPT) -> Whisper:
    """Random weights; biases of keys are zero, as in every Whisper."""
    torch.manual_seed(5)
    config = WhisperConfig(
        vocab_size=WORDS, num_mel_bins=BANDS, d_model=width, encoder_layers=2, decoder_layers=2, attention_heads=heads,
        ffn_dim=40, max_source_positions=150, max_position_embeddings=100, prompt=prompt, pad_token_id=2,
        eos_token_id=2,
    )  # fmt: skip
    model = Whisper(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if name.endswith("attention.projection.bias"):
                parameter[width : 2 * width] = 0
    return model


def sounds(lengths: tuple[int, ...]) -> Sequences:
    torch.manual_seed(2)
    return Sequences.of([torch.randn(length, 2, BANDS) for length in lengths])


def engine_of(model: Whisper, precision: str = "fp32", threads: int | None = None) -> Engine:
    engine = prepare(model, precision, threads)
    assert isinstance(engine, Engine)
    return engine


@pytest.mark.parametrize(("heads", "width"), [(3, 24), (2, 64), (1, 130)])
@pytest.mark.parametrize("threads", [1, 2])
def test_steps_are_those_of_the_model(heads, width, threads):
    """Short and long recordings side by side, more beams than are looked at together, sources that leave."""
    model = made(heads, width)
    engine, source = engine_of(model, threads=threads), sounds((150, 5, 97, 64))
    with torch.inference_mode():
        ours, theirs = engine.start(source), model.start(source)
        tokens = torch.full((4,), PROMPT[-1])
        for rows in ([0] * 2 + [1] * 2 + [2] * 2 + [3] * 2, [2, 3] * 20 + [7, 6], [40, 3, 5]):
            found, ours = engine.step(tokens, ours)
            expected, theirs = model.step(tokens, theirs)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
            chosen = torch.tensor(rows)
            ours, theirs = ours.select(chosen), theirs.select(chosen)
            tokens = torch.arange(len(rows)) % WORDS
        found, _ = engine.step(tokens, ours)
        expected, _ = model.step(tokens, theirs)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:1]])
@pytest.mark.parametrize("beams", [1, 4])
def test_answers_are_those_of_the_model(prompt, beams):
    """What is forbidden at the first place, or anywhere, is not said; after the prompt, which is read by `start`."""
    model, source = made(prompt=prompt), sounds((150, 40))
    plain = search(model, source, Search(prompt[-1], 2, beams, 0.0, limit=30))
    first, later = plain[0][0].tokens[0], plain[0][0].tokens[1]
    how = Search(prompt[-1], 2, beams, 0.0, limit=30, forbidden=(later,), forbidden_first=(2, first))
    ours, theirs = search(engine_of(model), source, how), search(model, source, how)
    assert [[one.tokens for one in row] for row in ours] == [[one.tokens for one in row] for row in theirs]
    assert ours[0][0].tokens != plain[0][0].tokens
    for found, expected in zip(ours, theirs, strict=True):
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.999), ("int8", 0.995)])
def test_rounded_weights_give_nearly_the_same_scores(precision, least):
    model, source = made(2, 64), sounds((150, 70))
    tokens = torch.full((2,), PROMPT[-1])
    with torch.inference_mode():
        found, _ = engine_of(model, precision).step(tokens, engine_of(model, precision).start(source))
        expected, _ = model.step(tokens, model.start(source))
    assert torch.nn.functional.cosine_similarity(found, expected).min() > least
    assert not torch.equal(found, expected)


def test_what_is_heard_does_not_depend_on_the_batch():
    """In fp32: convolutions differ in their last digits, which int8 may round to either side."""
    engine, lengths = engine_of(made(2, 64)), (150, 150, 150)
    how = Search(PROMPT[-1], 2, 3, 0.0, limit=20)
    together = search(engine, sounds(lengths), how)
    alone = [search(engine, Sequences.of([one]), how)[0] for one in sounds(lengths)]
    assert [[one.tokens for one in row] for row in together] == [[one.tokens for one in row] for row in alone]


@pytest.mark.parametrize("beams", [1, 3])
def test_recordings_take_the_rows_of_others(beams):
    """Each begins with the prompt and what it heard, in the place of a longer or shorter one that has left."""
    engine, heard = engine_of(made(2, 64)), list(sounds((150, 60, 33, 97, 5, 150, 20, 64, 110)))
    how = Search(PROMPT[-1], 38, beams, 0.0, limit=20)  # a token that ends some of these answers early
    waiting = Waiting(lambda chosen: Sequences.of([heard[place] for place in chosen]), range(9), range(9), lambda _: 3)
    answers = dict(search_waiting(engine, waiting, how))
    assert len({len(one[0].tokens) for one in answers.values()}) > 1
    for place, together in answers.items():
        [alone] = search(engine, Sequences.of([heard[place]]), how)
        assert [one.tokens for one in together] == [one.tokens for one in alone]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("heads", [2, 3, 1])
def test_encoders_read_long_texts_as_the_model(precision, heads):
    """From 48 tokens on all queries of a text are taken together, from 256 on in bfloat16; beside shorter ones."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=48, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=40,
        max_position_embeddings=300,
    )  # fmt: skip
    model = Bert(config).eval()
    tokens = Sequences.of_ids([[5] * 47, list(range(40)) * 3, [9], [3, 7] * 24, [*range(5, 40)] * 8])
    with torch.inference_mode():
        expected = model.hidden(tokens).values
    rounding = {"fp32": 1e-5, "bf16": 3e-2, "int8": 6e-2}[precision] * float(expected.abs().max())
    for threads in (1, 2):
        ready = prepare_encoder(model, precision, threads=threads)
        torch.testing.assert_close(ready.hidden(tokens).values, expected, atol=rounding, rtol=0)
