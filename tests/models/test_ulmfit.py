"""AWD-LSTM and ULMFiT's classifier against fastai on the same weights; chunks, directions, groups, regularisation."""

import importlib
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regard.errors import RegardError
from regard.generation.search import Generator, Search, search
from regard.models.ulmfit import (
    PRESETS,
    AwdLstm,
    AwdLstmConfig,
    Block,
    ConcatPooling,
    Ulmfit,
    UlmfitConfig,
    activation_regularisation,
    class_probabilities,
    parameter_groups,
    reverse,
)
from regard.sequences import Sequences

SIZES = {"vocab_size": 29, "embedding_size": 7, "hidden_size": 11}
CLASSIFIER = {"labels": ("a", "b", "c"), "classifier_size": 5, "chunk_length": 4, "max_length": 8}
NO_DROPOUT = {"dropout_multiplier": 0.0, "classifier_dropout": 0.0}
TEXTS = [[5, 6, 7, 8, 2, 13, 14], [9, 2], [11, 12, 13, 2, 3, 4], [21]]
LONG = [*range(2, 29), 5]
FIVE = ("embedding_dropout", "input_dropout", "weight_dropout", "hidden_dropout", "output_dropout")


def spread(model: nn.Module) -> None:
    """Larger weights, so that a wrong gate shows; buffers of the norms too, so that none goes unnoticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(0.5 + torch.rand_like(buffer))


def language_model(**changes: object) -> AwdLstm:
    model = AwdLstm(AwdLstmConfig(**{**SIZES, **changes})).eval()
    spread(model)
    return model


def classifier(**changes: object) -> Ulmfit:
    model = Ulmfit(UlmfitConfig(**{**SIZES, **CLASSIFIER, **changes})).eval()
    spread(model)
    return model


# --- fastai --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fastai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("fastai", reason="fastai is not installed")
        try:
            importlib.import_module("fastai.text.models.awdlstm")
            return importlib.import_module("fastai.text.models.core")
        except ImportError as missing:
            pytest.skip(f"fastai lacks a package: {missing}")


def config_of(config: AwdLstmConfig | UlmfitConfig) -> dict[str, object]:
    sizes = {"emb_sz": config.embedding_size, "n_hid": config.hidden_size, "n_layers": config.num_hidden_layers}
    short = {"embed_p": "embedding", "input_p": "input", "weight_p": "weight", "hidden_p": "hidden"}
    dropouts = {name: getattr(config, f"{ours}_dropout") for name, ours in short.items()}
    return {**sizes, **dropouts, "output_p": config.output_dropout, "pad_token": 1, "bidir": False}


def pairs_of_encoder(ours: nn.Module, theirs: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Our parameters and theirs, side by side. WeightDropout hides the weight it drops under another name."""
    pairs = [(ours.embedding.weight, theirs.encoder.weight)]
    for layer, wrapped in zip(ours.layers, theirs.rnns, strict=True):
        pairs += [(layer.input_weight, wrapped.module.weight_ih_l0), (layer.hidden_weight, wrapped.weight_hh_l0_raw)]
        pairs += [(layer.input_bias, wrapped.module.bias_ih_l0), (layer.hidden_bias, wrapped.module.bias_hh_l0)]
    return pairs


def give(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for ours, theirs in pairs:
            theirs.copy_(ours)


def same_gradients(pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
    for number, (ours, theirs) in enumerate(pairs):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5), number


def keep_outputs(layers: nn.ModuleList) -> list[torch.Tensor]:
    kept: list[torch.Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, inputs, output: kept.append(output[0]))
    return kept


LM_CHANGES = [
    {},
    {"num_hidden_layers": 1},
    {"num_hidden_layers": 2},
    {"tie_word_embeddings": False},
    {"output_bias": False},
    {"hidden_size": 7},
]


@pytest.mark.parametrize("changes", LM_CHANGES, ids=str)
def test_the_language_model_is_fastais(fastai, changes):
    model = language_model(**changes)
    config = model.config
    flags = {"tie_weights": config.tie_word_embeddings, "out_bias": config.output_bias}
    twin = fastai.get_language_model(fastai.AWD_LSTM, config.vocab_size, {**config_of(config), **flags}).eval()
    pairs = pairs_of_encoder(model.encoder, twin[0])
    if model.output_weight is not None:
        pairs.append((model.output_weight, twin[1].decoder.weight))
    if model.output_bias is not None:
        pairs.append((model.output_bias, twin[1].decoder.bias))
    give(pairs)
    twin.reset()
    ours, theirs = keep_outputs(model.encoder.layers), keep_outputs(twin[0].rnns)
    stream = torch.randint(2, 29, (3, 10))
    state = None
    for piece in stream.split([6, 4], dim=1):  # the second piece goes on where the first one ended
        logits, state = model(Sequences.of(list(piece)), state)
        other, raw, _ = twin(piece)
        assert torch.allclose(logits.view_as(other), other, atol=1e-5)
        for one, two in zip(ours, theirs, strict=True):  # hidden states of all layers
            assert torch.allclose(one.pad(), two, atol=1e-5)
        assert torch.allclose(ours[-1].pad(), raw, atol=1e-5)
        ours.clear()
        theirs.clear()
        answers = torch.randint(0, 29, (piece.numel(),))
        losses = [nn.functional.cross_entropy(one.reshape(-1, 29), answers) for one in (logits, other)]
        assert torch.allclose(*losses, atol=1e-5)
        for loss in losses:
            loss.backward()
    same_gradients(pairs[1:])
    tokens = torch.arange(29) != 1  # their padding gets no gradient through the look-up; we have none
    assert torch.allclose(model.encoder.embedding.weight.grad[tokens], twin[0].encoder.weight.grad[tokens], atol=1e-5)


@pytest.mark.parametrize("multiplier", [1.0, 0.5])
def test_the_dropouts_are_fastais(fastai, multiplier):
    """Their probabilities, where they stand; the masks themselves are random."""
    for ours, preset in (
        (AwdLstm(AwdLstmConfig(**SIZES, dropout_multiplier=multiplier)), "lm"),
        (Ulmfit(UlmfitConfig(**SIZES, **CLASSIFIER, dropout_multiplier=multiplier)), "clas"),
    ):
        sizes = {"emb_sz": 7, "n_hid": 11}
        if preset == "lm":
            theirs = fastai.get_language_model(
                fastai.AWD_LSTM, 29, {**fastai.awd_lstm_lm_config, **sizes}, drop_mult=multiplier
            )
            encoder = theirs[0]
            assert ours.output_dropout.dropout.p == theirs[1].output_dp.p
        else:
            theirs = fastai.get_text_classifier(
                fastai.AWD_LSTM, 29, 3, config={**fastai.awd_lstm_clas_config, **sizes}, drop_mult=multiplier,
                lin_ftrs=[5], ps=[0.1],
            )  # fmt: skip
            encoder = theirs[0].module
            kept = [part.p for part in theirs[1].layers.modules() if isinstance(part, nn.Dropout)]
            assert [block.dropout.p for block in ours.head] == kept
        assert ours.encoder.embedding_dropout.dropout.p == encoder.encoder_dp.embed_p
        assert ours.encoder.input_dropout.dropout.p == encoder.input_dp.p
        assert ours.encoder.hidden_dropout.dropout.p == encoder.hidden_dps[0].p
        assert ours.encoder.layers[0].weight_dropout.p == encoder.rnns[0].weight_p


def padded_as_fastai_does(texts: list[list[int]], chunk: int) -> torch.Tensor:
    """Longest first; whole chunks of padding before a text, what is left after it, so that it begins with a chunk."""
    longest = len(texts[0])
    rows = []
    for text in texts:
        missing = longest - len(text)
        front = missing // chunk * chunk
        rows.append([1] * front + text + [1] * (missing - front))
    return torch.tensor(rows)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "texts", [[*TEXTS, LONG[:8]], [LONG, LONG[::-1]], [LONG, LONG[:9], LONG[3:5]]], ids=["short", "long", "mixed"]
)
@pytest.mark.parametrize("changes", [{}, {"max_length": 1440}, {"num_hidden_layers": 1}], ids=str)
def test_the_classifier_is_fastais(fastai, changes, texts, training):
    """While training too: without dropout the norms' means of the batch and the gradients of the chunks are the same.

    That one in float64: a norm over three texts divides by deviations near zero, which makes 1e-7 into 1e-5.
    """
    # The longest is a multiple of the chunk's length: else fastai takes a wrong state for the last one of some texts.
    texts = sorted(texts, key=len, reverse=True)
    model = classifier(**NO_DROPOUT, **changes).train(training)
    config = model.config
    twin = fastai.get_text_classifier(
        fastai.AWD_LSTM, config.vocab_size, 3, seq_len=config.chunk_length, config=config_of(config), drop_mult=0.0,
        lin_ftrs=[5], ps=[0.0], max_len=config.max_length,
    ).train(training)  # fmt: skip
    norms = [part for part in twin[1].layers.modules() if isinstance(part, nn.BatchNorm1d)]
    linears = [part for part in twin[1].layers.modules() if isinstance(part, nn.Linear)]
    pairs = pairs_of_encoder(model.encoder, twin[0].module)
    for block, norm, linear in zip(model.head, norms, linears, strict=True):
        pairs += [(block.norm.weight, norm.weight), (block.norm.bias, norm.bias), (block.linear.weight, linear.weight)]
        give([(block.norm.running_mean, norm.running_mean), (block.norm.running_var, norm.running_var)])
    give(pairs)
    if training:
        model, twin = model.double(), twin.double()
        twin.reset()
    source = Sequences.of_ids(texts)
    other, _, _ = twin(padded_as_fastai_does(texts, config.chunk_length))
    logits = model(source)
    assert torch.allclose(logits, other, atol=1e-5 if not training else 1e-10)
    labels = torch.arange(len(texts)) % 3
    losses = [nn.functional.cross_entropy(one, labels) for one in (logits, other)]
    for loss in losses:
        loss.backward()
    same_gradients(pairs)
    if not training:
        with torch.no_grad():  # whole texts at once
            assert torch.allclose(model(source), other, atol=1e-5)
    else:
        for block, norm in zip(model.head, norms, strict=True):
            assert torch.allclose(block.norm.running_mean, norm.running_mean, atol=1e-5)


# --- the language model --------------------------------------------------------------------------------------------


def test_presets_have_the_sizes_of_the_papers():
    counted = {"awd-lstm": 24_221_600, "awd-lstm-wikitext-2": 33_556_078, "ulmfit": 44_271_600}
    for name, expected in counted.items():
        with torch.device("meta"):
            found = AwdLstm(PRESETS[name]).count_parameters()
        config = PRESETS[name]
        outer, inner, words = config.embedding_size, config.hidden_size, config.vocab_size
        layers = 4 * (inner * (outer + inner + 2) + inner * (2 * inner + 2) + outer * (inner + outer + 2))
        assert found == layers + words * (outer + 1) == expected


def test_running_text_in_pieces_is_the_same_as_at_once():
    model = language_model()
    stream = torch.randint(3, 29, (2, 9))
    together, last = model(Sequences.of(list(stream)))
    state, pieces = None, []
    for piece in stream.split([4, 3, 2], dim=1):
        logits, state = model(Sequences.of(list(piece)), state)
        pieces.append(logits.view(2, -1, 29))
    assert torch.allclose(torch.cat(pieces, dim=1), together.view(2, 9, 29), atol=1e-5)
    for one, two in zip(state.layers, last.layers, strict=True):
        assert torch.allclose(one.hidden, two.hidden, atol=1e-5)
        assert torch.allclose(one.cell, two.cell, atol=1e-5)
        assert not one.hidden.requires_grad


def test_ragged_equals_one_by_one():
    model = language_model()
    together, _ = model(Sequences.of_ids(TEXTS))
    assert torch.allclose(together, torch.cat([model(Sequences.of_ids([row]))[0] for row in TEXTS]), atol=1e-5)


def test_it_goes_on_from_a_text():
    model = language_model()
    assert isinstance(model, Generator)
    source = Sequences.of_ids(TEXTS)
    rows = torch.tensor([3, 0, 0, 1])
    state = model.start(source).select(rows)
    logits, state = model.step(torch.tensor([TEXTS[row][-1] for row in rows]), state)
    following, _ = model.step(torch.tensor([5, 5, 6, 7]), state)
    expected, _ = model(source)
    ends = source.layout.offsets[1:] - 1
    assert torch.allclose(logits, expected[ends[rows]], atol=1e-5)
    longer, _ = model(Sequences.of_ids([[*TEXTS[0], 6]]))
    assert torch.allclose(following[2], longer[-1], atol=1e-5)
    found = search(model, source, Search(bos=1, eos=2, beams=2, limit=4))
    assert all(len(answers) == 2 for answers in found)
    with pytest.raises(RegardError, match="at least one token"):
        model.start(Sequences.of_ids([[3], []]))


def test_every_layer_equals_its_steps():
    model = language_model()
    calls = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda layer, inputs, output: calls.append((layer, inputs[0], output[0])))
    model(Sequences.of_ids(TEXTS))
    assert len(calls) == 3
    for layer, x, output in calls:
        for row in range(len(TEXTS)):
            assert torch.allclose(layer.steps(x[row], slice(1, None))["output"], output[row][1:], atol=1e-5)


@pytest.mark.parametrize("which", FIVE)
def test_each_dropout_does_something_and_only_while_training(which):
    others = dict.fromkeys(FIVE, 0.0)
    source = Sequences.of_ids(TEXTS)
    model = language_model(**{**others, which: 0.5})
    assert torch.equal(model(source)[0], model(source)[0])
    model.train()
    assert not torch.equal(model(source)[0], model(source)[0])
    still = language_model(**others).train()
    assert torch.equal(still(source)[0], still(source)[0])


def test_only_the_output_dropout_hides_what_is_read():
    model = language_model(**{**dict.fromkeys(FIVE, 0.0), "output_dropout": 0.5}).train()
    reading = model.read(Sequences.of_ids(TEXTS))
    kept = reading.dropped.values != 0
    assert torch.allclose(reading.dropped.values[kept], 2 * reading.hidden.values[kept])
    assert not kept.all()


def test_activation_regularisation_is_the_formula():
    model = language_model().train()
    reading = model.read(Sequences.of_ids(TEXTS))
    dropped, hidden = reading.dropped, reading.hidden
    activation = dropped.values.square().mean()
    changes = torch.cat([row[1:] - row[:-1] for row in hidden])
    expected = 2 * activation + 1 * changes.square().mean()
    assert torch.allclose(activation_regularisation(reading), expected, atol=1e-6)
    assert torch.allclose(activation_regularisation(reading, 0.5, 0.0), 0.5 * activation, atol=1e-6)
    single = model.read(Sequences.of_ids([[3], [4]]))
    assert torch.allclose(activation_regularisation(single), 2 * single.dropped.values.square().mean())


@pytest.mark.parametrize("tied", [True, False])
def test_another_vocabulary_keeps_what_it_knows(tied):
    model = language_model(tie_word_embeddings=tied)
    moved = model.with_vocabulary([3, None, 5, 28]).eval()
    assert moved.config.vocab_size == 4
    assert torch.equal(moved.encoder.embedding.weight[[0, 2, 3]], model.encoder.embedding.weight[[3, 5, 28]])
    assert torch.allclose(moved.encoder.embedding.weight[1], model.encoder.embedding.weight.mean(dim=0))
    old, _ = model(Sequences.of_ids([[3, 5, 28]]))
    new, _ = moved(Sequences.of_ids([[0, 2, 3]]))
    assert torch.allclose(new[:, [0, 2, 3]], old[:, [3, 5, 28]], atol=1e-5)
    with pytest.raises(RegardError, match="no word 29 in a vocabulary of 29"):
        model.with_vocabulary([29])


# --- the classifier ------------------------------------------------------------------------------------------------


def test_a_classifier_begins_with_a_language_model():
    model, head = language_model(), classifier()
    head.take_encoder(model)
    source = Sequences.of_ids([TEXTS[0]])
    assert torch.allclose(head.read(source).values, model.read(source).hidden.values, atol=1e-5)
    with pytest.raises(RegardError, match="same direction"):
        classifier(backward=True).take_encoder(model)


def test_backward_is_the_reversed_text():
    model, turned = classifier(), classifier(backward=True)
    turned.load_state_dict(model.state_dict())
    source = Sequences.of_ids(TEXTS)
    assert [row.tolist() for row in reverse(source)] == [row[::-1] for row in TEXTS]
    assert torch.allclose(turned(source), model(reverse(source)), atol=1e-6)
    both = class_probabilities([model, turned], source)
    expected = (model(source).softmax(-1) + turned(source).softmax(-1)) / 2
    assert torch.allclose(both, expected, atol=1e-6)
    assert torch.allclose(both.sum(-1), torch.ones(len(TEXTS)))
    with pytest.raises(RegardError, match="at least one model"):
        class_probabilities([], source)


@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_chunks_change_nothing_but_the_gradients(lengths):
    torch.manual_seed(3)
    model = classifier()
    source = Sequences.of([torch.randint(0, 29, (length,)) for length in lengths])
    chunked = model.read(source)
    with torch.no_grad():
        whole = model.read(source)
    assert chunked.lengths == whole.lengths
    assert all(length <= 8 or total - length > 0 for total, length in zip(lengths, whole.lengths, strict=True))
    assert torch.allclose(chunked.values, whole.values, atol=1e-5)
    alone = [model(Sequences.of([row])) for row in source]
    assert torch.allclose(model(source), torch.cat(alone), atol=1e-5)


def test_gradients_reach_the_pooled_chunks_only():
    model = classifier()
    source = Sequences.of([torch.arange(26), torch.tensor([26, 27])])  # 26 tokens: pooled from token 20 on
    model(source).square().sum().backward()
    reached = (model.encoder.embedding.weight.grad != 0).any(dim=1)
    assert reached.tolist() == [False] * 20 + [True] * 8 + [False]
    assert model.read(source).lengths == (6, 2)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_pooling_and_head_equal_their_steps(lengths):
    torch.manual_seed(3)
    pooling, block, last = ConcatPooling(), Block(9, 5, 0.5, relu=True).eval(), Block(5, 2, 0.5, relu=False).eval()
    for part in (block, last):
        spread(part)
    x = Sequences.of([torch.randn(length, 3) for length in lengths])
    pooled = pooling(x)
    for row, values in enumerate(x):
        steps = pooling.steps(values)
        assert torch.allclose(steps["output"], pooled[row : row + 1], atol=1e-6)
        assert torch.equal(values.gather(0, steps["max_positions"][None])[0], steps["max"])
    for part in (block, last):
        steps = part.steps(pooled)
        assert torch.allclose(steps["output"], part(pooled), atol=1e-6)
        pooled = steps["output"]


def test_saved_and_loaded(tmp_path):
    for number, model in enumerate((language_model(), language_model(tie_word_embeddings=False), classifier())):
        folder = tmp_path / str(number)
        folder.mkdir()
        model.save(folder)
        again = type(model).load(folder)
        assert again.config == model.config
        source = Sequences.of_ids(TEXTS)
        one, two = (each(source) for each in (again, model))
        assert torch.equal(one, two) if number == 2 else torch.equal(one[0], two[0])


def test_groups_hold_every_parameter_once_from_the_bottom_up():
    for model, count in ((language_model(tie_word_embeddings=False), 4), (language_model(), 4), (classifier(), 5)):
        groups = parameter_groups(model)
        assert len(groups) == count
        found = [id(parameter) for group in groups for parameter in group]
        assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    assert groups[0][0] is model.encoder.embedding.weight
    assert groups[1][0] is model.encoder.layers[0].input_weight


def test_configurations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="input_dropout times dropout_multiplier is 1.2"):
        UlmfitConfig(dropout_multiplier=3.0)
    with pytest.raises(ValueError, match="max_length 10 is less than chunk_length 72"):
        UlmfitConfig(max_length=10)
    with pytest.raises(RegardError, match="at least one token"):
        classifier()(Sequences.of_ids([[3], []]))
