"""The engine against the models themselves: every family, random settings of rows, beams and precision."""

import pytest
import torch
from generation.families import check_steps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regard import RegardError
from regard.generation.answers import answer
from regard.generation.encoding import prepare_encoder
from regard.generation.engine import Engine, prepare
from regard.generation.search import Search, search
from regard.models.albert import Albert, AlbertConfig
from regard.models.bert import Bert, BertConfig
from regard.models.gpt import GPT, GPTConfig
from regard.models.llama import Llama, LlamaConfig
from regard.models.t5 import T5, T5Config
from regard.models.transformer import Transformer, TransformerConfig
from regard.native import library
from regard.native.matrices import PRECISIONS, Matrix
from regard.pipelines import load
from regard.sequences import Sequences

pytestmark = pytest.mark.skipif(library() is None, reason="the native kernels were not built")

WORDS = 37
SIZES = {"vocab_size": WORDS, "d_model": 24, "encoder_layers": 1, "decoder_layers": 2}
MODELS = {
    "post-norm": lambda: Transformer(TransformerConfig(**SIZES, attention_heads=3, ffn_dim=40)),
    "pre-norm": lambda: Transformer(
        TransformerConfig(
            **SIZES, attention_heads=2, ffn_dim=40, normalize_before=True, positions="learned", first_position=2,
            activation_function="gelu", normalize_embedding=True, logits_bias=True,
        )
    ),
    "wide heads": lambda: Transformer(
        TransformerConfig(**{**SIZES, "d_model": 64}, attention_heads=2, ffn_dim=40, activation_function="gelu_new")
    ),
    "t5": lambda: T5(T5Config(**SIZES, d_kv=8, d_ff=40, num_heads=3, gated=True, activation_function="gelu_new")),
    "t5, untied": lambda: T5(T5Config(**SIZES, d_kv=16, d_ff=40, num_heads=3, tie_word_embeddings=False)),
    "gpt": lambda: GPT(GPTConfig(vocab_size=WORDS, n_embd=24, n_layer=2, n_head=3, n_positions=150)),
    "gpt2": lambda: GPT(
        GPTConfig(vocab_size=WORDS, n_embd=24, n_layer=2, n_head=3, n_positions=150, normalize_before=True)
    ),
    "llama": lambda: Llama(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=150,
        )
    ),
}  # fmt: skip


def made(name: str) -> torch.nn.Module:
    """Random weights, biases and norms too."""
    torch.manual_seed(7)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        if getattr(model, "output_bias", None) is not None:
            model.output_bias.normal_()
    return model


@pytest.fixture(params=list(MODELS))
def model(request):
    return made(request.param)


def engine_of(model, precision="fp32", threads=None) -> Engine:
    engine = prepare(model, precision, threads)
    assert isinstance(engine, Engine)
    return engine


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_steps_are_those_of_the_model(model, data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    engine = engine_of(model, threads=data.draw(st.sampled_from([1, 2])))
    check_steps(data, engine, model, lengths, WORDS)


def test_the_best_tokens_are_those_of_all_logits(model):
    engine, source = engine_of(model, threads=2), Sequences.of_ids([[5, 6, 7], [8]])
    tokens = torch.tensor([1, 9])
    with torch.inference_mode():
        logits, _ = model.step(tokens, model.start(source))
        expected = logits.log_softmax(dim=-1)
        expected[:, [4, 5]] = -torch.inf
        best = expected.topk(6, dim=-1)
        values, found, _ = engine.best(tokens, engine.start(source), 6, (4, 5))
    torch.testing.assert_close(values, best.values, atol=2e-5, rtol=2e-5)
    assert torch.equal(found, best.indices)


def test_answers_are_those_of_the_model(model):
    engine = engine_of(model)
    source = Sequences.of_ids([[5, 6, 7, 2], [8, 2], [9, 10, 11, 12, 13, 2]])
    bos = None if hasattr(model, "hidden") else 1
    for beams, alpha in ((1, 0.0), (4, 0.6)):
        how = Search(bos, 2, beams, alpha, extra_length=20)
        ours, theirs = search(engine, source, how), search(model, source, how)
        assert [[one.tokens for one in row] for row in ours] == [[one.tokens for one in row] for row in theirs]
        for found, expected in zip(ours, theirs, strict=True):
            assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)


def test_a_long_answer_outgrows_the_first_cache(model):
    """The room for 64 positions is doubled on the way, with beams that share it."""
    engine, source = engine_of(model), Sequences.of_ids([[5, 6], [7, 8, 9, 10]])
    how = Search(None if hasattr(model, "hidden") else 1, -1, 3, 0.0, extra_length=100)
    ours, theirs = search(engine, source, how), search(model, source, how)
    assert len(ours[0][0].tokens) > 70
    assert [row[0].tokens for row in ours] == [row[0].tokens for row in theirs]


def test_several_tokens_are_read_at_once_and_taken_back(model):
    engine, source = engine_of(model), Sequences.of_ids([[5, 6, 7]])
    with torch.inference_mode():
        state = engine.start(source)
        before = state.length
        logits, state = engine.extend(torch.tensor([[1, 11, 12, 13]]), state)
        state.cut(before + 2)
        again, _ = engine.step(torch.tensor([12]), state)
        own = model.start(source)
        for place, token in enumerate([1, 11, 12, 13]):
            expected, own = model.step(torch.tensor([token]), own)
            torch.testing.assert_close(logits[:, place], expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(again, logits[:, 2], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9995), ("int8", 0.995)])
def test_rounded_weights_give_nearly_the_same_scores(model, precision, least):
    engine, source = engine_of(model, precision), Sequences.of_ids([[5, 6, 7], [8, 9, 10, 11]])
    with torch.inference_mode():
        found, _ = engine.step(torch.tensor([1, 1]), engine.start(source))
        expected, _ = model.step(torch.tensor([1, 1]), model.start(source))
    assert torch.nn.functional.cosine_similarity(found, expected).min() > least
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (17, 5), (48, 64), (33, 130)])
def test_a_product_of_any_shape(precision, outputs, inputs):
    """As a head of a model: the best of all outputs by a matrix, for more rows than a tile has."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=outputs, n_embd=inputs, n_layer=1, n_head=1, tie_word_embeddings=False)).eval()
    engine = engine_of(model, precision)
    texts = Sequences.of_ids([[0]] * 37)
    with torch.inference_mode():
        found, _ = engine.step(torch.zeros(37, dtype=torch.long), engine.start(texts))
        expected, _ = model.step(torch.zeros(37, dtype=torch.long), model.start(texts))
    rounding = {"fp32": 1e-5, "bf16": 2e-2, "int8": 5e-2}[precision] * max(1e-3, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, atol=rounding, rtol=0)


def test_an_answer_does_not_depend_on_the_batch(model):
    """Also in int8: rows are rounded each by itself."""
    engine, texts = engine_of(model, "int8"), [[5, 6, 7, 2], [8, 2], [9, 10, 11, 12, 13, 2]]
    how = Search(None if hasattr(model, "hidden") else 1, 2, 3, 0.6, extra_length=10)
    together = search(engine, Sequences.of_ids(texts), how)
    alone = [search(engine, Sequences.of_ids([text]), how)[0] for text in texts]
    assert [[one.tokens for one in row] for row in together] == [[one.tokens for one in row] for row in alone]


def test_workers_give_the_same_answers_in_any_order():
    loaded = load("g2p")
    texts = ["python", "attention", "regard", "quick", "transformer", "a", "sequence", "word"]
    how = loaded.search(4, 0.6)
    engine = engine_of(loaded.model, threads=2)
    parallel = dict(answer(engine, loaded.codec, texts, how))
    single = dict(answer(loaded.model, loaded.codec, texts, how))
    assert parallel.keys() == single.keys()
    assert all(parallel[number][0].tokens == single[number][0].tokens for number in single)


def test_memory_is_used_again():
    engine, source = engine_of(made("gpt")), Sequences.of_ids([[5, 6, 7]])
    how = Search(None, -1, 1, 0.0, extra_length=5)
    search(engine, source, how)
    rooms = list(engine._rooms)
    search(engine, source, how)
    assert len(rooms) == 1
    assert engine._rooms == rooms


@pytest.mark.parametrize("kind", [Bert, Albert])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_encoder_reads_as_the_model(kind, precision):
    torch.manual_seed(3)
    sizes = {"vocab_size": WORDS, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = {Bert: BertConfig, Albert: AlbertConfig}[kind](**sizes, intermediate_size=40)
    model = kind(config).eval()
    ready = prepare_encoder(model, precision, threads=2)
    tokens = Sequences.of_ids([[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16]])
    with torch.inference_mode():
        expected = model.hidden(tokens).values
    rounding = {"fp32": 1e-5, "bf16": 3e-2, "int8": 6e-2}[precision] * float(expected.abs().max())
    torch.testing.assert_close(ready.hidden(tokens).values, expected, atol=rounding, rtol=0)


def test_a_pipeline_prepares_its_model_anew_when_its_weights_change():
    loaded = load("g2p")
    before = loaded.translate(["python"])
    first = loaded.generator()
    assert isinstance(first, Engine)
    assert loaded.generator() is first
    with torch.no_grad():
        loaded.model.embedding.weight.neg_()
    assert loaded.generator() is not first
    assert loaded.translate(["python"]) != before


def test_a_pipeline_whose_model_is_watched_answers_with_the_model():
    loaded = load("g2p")
    seen = []
    hook = loaded.model.encoder.register_forward_hook(lambda *_: seen.append(1))
    loaded.translate(["python"])
    hook.remove()
    assert seen
    assert isinstance(loaded.generator(), Engine)


def test_what_has_no_program_answers_itself():
    model = Bert(BertConfig(vocab_size=WORDS, hidden_size=24, num_hidden_layers=1, num_attention_heads=3))
    assert prepare(model) is model


def test_numbers_that_are_none_are_said():
    model = made("gpt")
    with pytest.raises(RegardError, match="precision is one of fp32, bf16, int8"):
        prepare(model, "int4")
    with pytest.raises(RegardError, match="not finite"):
        Matrix(torch.tensor([[1.0, float("nan")]]))
    with torch.no_grad():
        model.embedding.weight[5] = float("inf")
    with pytest.raises(RegardError, match="not finite"):
        prepare(model)
    model = made("llama")
    with torch.no_grad():
        model.decoder.norm.weight[0] = float("nan")
    for precision in PRECISIONS:
        with pytest.raises(RegardError, match="text 1, step 1: the model's scores are not finite"):
            search(engine_of(model, precision), Sequences.of_ids([[5, 6]]), Search(None, 2))
