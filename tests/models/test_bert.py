"""BERT and its family against an implementation that nobody here wrote: same weights, ragged against padded."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError, Sequences
from regard.data.masked_words import mask_words
from regard.hub import bert as hub
from regard.models import albert, bert
from regard.models.albert import Albert, AlbertConfig
from regard.models.bert import (
    Bert,
    BertConfig,
    best_spans,
    classification_loss,
    masked_word_loss,
    pretraining_loss,
    sentence_embeddings,
    span_loss,
    token_label_loss,
)

SIZES = {
    "vocab_size": 29,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
}
NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
DISTIL_NAMES = {**NAMES, "intermediate_size": "hidden_dim", "hidden_act": "activation"}
TEXTS = [[5, 6, 7, 8, 3, 9, 4], [9, 2], [11, 12, 13, 28]]
SEGMENTS = [[0, 0, 0, 1, 1, 1, 1], [0, 1], [0, 0, 1, 1]]
PLACES = [1, 4, 8, 11]  # of the hidden words, in the whole batch
WORDS = [17, 3, 22, 6]


def twin(kind: str, **changes: object) -> torch.nn.Module:
    """Their model with random weights; biases and norms too, so that none of them goes unnoticed."""
    kind_class = getattr(transformers, kind)
    sizes = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes}
    if kind.startswith("DistilBert"):
        sizes = {DISTIL_NAMES.get(name, name): value for name, value in sizes.items()}
    if kind.startswith("Albert"):
        sizes = {"embedding_size": 7, **sizes}
    model = kind_class(kind_class.config_class(**sizes, attn_implementation="eager")).eval()
    model.config.architectures = [kind]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def ours_of(theirs: torch.nn.Module) -> Bert:
    config = hub.read_config(theirs.config.to_dict())
    model = hub.MODEL_TYPES[theirs.config.model_type](config).eval()
    model.load_state_dict(hub.read_weights(config, theirs.state_dict()))
    return model


def built(kind: type[Bert] = Bert, **changes: object) -> Bert:
    model = kind(kind.config_class(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch(model: Bert) -> tuple[Sequences, torch.Tensor | None, dict[str, torch.Tensor]]:
    """Tokens and segments for us, and the same, padded, for them."""
    tokens, segments = Sequences.of_ids(TEXTS), Sequences.of_ids(SEGMENTS)
    padded = {"input_ids": tokens.pad(), "attention_mask": tokens.layout.present.long()}
    if model.config.type_vocab_size < 2:
        return tokens, None, padded
    return tokens, segments.values, padded | {"token_type_ids": segments.pad()}


def valid(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([row[: len(text)] for row, text in zip(values, TEXTS, strict=True)])


def hidden_words() -> torch.Tensor:
    """The labels of the hidden words as they want them: padded, -100 elsewhere."""
    labels = torch.full((sum(map(len, TEXTS)),), -100)
    labels[PLACES] = torch.tensor(WORDS)
    return Sequences.of_ids(TEXTS).with_values(labels + 100).pad(0) - 100


def entering(model: Bert, *inputs: object) -> list[Sequences]:
    """What enters each layer, and what leaves the last."""
    noted: list[Sequences] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, given: noted.append(given[0])) for layer in model.encoder.layers
    ]
    noted.append(model.hidden(*inputs))
    for handle in handles:
        handle.remove()
    return noted


def same_gradients(model: Bert, theirs: torch.nn.Module, ours_loss: torch.Tensor, their_loss: torch.Tensor) -> None:
    ours_loss.backward()
    their_loss.backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    expected = hub.read_weights(model.config, gradients)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            assert (parameter.grad - expected[name]).abs().max() < 1e-5, name
    # Nothing of theirs that learned is missing here (a padding row never learns there). What a softmax does not see, as
    # the bias of spans, learns nothing: what stands there is rounding, in one of the two or in both.
    least = 1e-6
    assert {name for name, value in expected.items() if value.abs().max() > least} == {
        name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().max() > least
    }


CASES = [
    ("BertForMaskedLM", {}),
    ("BertForMaskedLM", {"hidden_act": "gelu_new", "layer_norm_eps": 0.1, "type_vocab_size": 3}),
    ("BertForMaskedLM", {"hidden_act": "relu", "tie_word_embeddings": False}),
    ("BertForMaskedLM", {"hidden_act": "silu", "type_vocab_size": 1}),
    ("DistilBertForMaskedLM", {}),
    ("DistilBertForMaskedLM", {"hidden_act": "relu", "tie_word_embeddings": False}),
    ("DistilBertForMaskedLM", {"sinusoidal_pos_embds": True}),
    ("RobertaForMaskedLM", {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    ("RobertaForMaskedLM", {"pad_token_id": 0, "tie_word_embeddings": False}),
    ("AlbertForMaskedLM", {}),
    ("AlbertForMaskedLM", {"hidden_act": "gelu", "tie_word_embeddings": False, "layer_norm_eps": 0.1}),
    ("AlbertForMaskedLM", {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2}),
]


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=lambda value: str(value))
def test_all_numbers_are_those_of_the_other_implementation(kind, changes):
    theirs = twin(kind, **changes)
    model = ours_of(theirs)
    tokens, segments, padded = batch(model)
    padded["input_ids"] = tokens.pad(theirs.config.pad_token_id)
    other = theirs(**padded, labels=hidden_words(), output_hidden_states=True, output_attentions=True)
    logits = model(tokens, segments)["masked_words"]
    assert (logits - valid(other.logits)).abs().max() < 1e-5
    streams = entering(model, tokens, segments)
    assert len(streams) == len(other.hidden_states) == len(model.encoder.layers) + 1
    for stream, hidden in zip(streams, other.hidden_states, strict=True):
        assert (stream.values - valid(hidden)).abs().max() < 1e-5
    for layer, stream, attentions in zip(model.encoder.layers, streams, other.attentions, strict=False):
        for row, text in enumerate(TEXTS):
            size = len(text)
            weights = layer.steps(stream[row], slice(None))["self_attention.weights"]
            assert (weights - attentions[row, :, :size, :size]).abs().max() < 1e-5
    loss = masked_word_loss(model, streams[-1], torch.tensor(PLACES), torch.tensor(WORDS))
    assert abs(loss - other.loss) < 1e-5
    same_gradients(model, theirs, loss, other.loss)


@pytest.mark.parametrize("kind", ["BertForPreTraining", "AlbertForPreTraining"])
def test_both_objectives_are_those_of_the_other_implementation(kind):
    theirs = twin(kind)
    model = ours_of(theirs)
    tokens, segments, padded = batch(model)
    pair_labels = "sentence_order_label" if kind.startswith("Albert") else "next_sentence_label"
    unrelated = torch.tensor([1, 0, 1])
    other = theirs(**padded, labels=hidden_words(), **{pair_labels: unrelated})
    found = model(tokens, segments)
    assert (found["masked_words"] - valid(other.prediction_logits)).abs().max() < 1e-5
    pairs = other.sop_logits if kind.startswith("Albert") else other.seq_relationship_logits
    assert (found["next_sentence"] - pairs).abs().max() < 1e-5
    loss = pretraining_loss(model, tokens, segments, torch.tensor(PLACES), torch.tensor(WORDS), unrelated)
    assert abs(loss - other.loss) < 1e-5
    same_gradients(model, theirs, loss, other.loss)


def test_next_sentences_alone():
    theirs = twin("BertForNextSentencePrediction")
    model = ours_of(theirs)
    tokens, segments, padded = batch(model)
    unrelated = torch.tensor([1, 0, 1])
    other = theirs(**padded, labels=unrelated)
    scores = model(tokens, segments)["next_sentence"]
    assert (scores - other.logits).abs().max() < 1e-5
    same_gradients(model, theirs, classification_loss(scores, unrelated), other.loss)


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta", "Albert"])
@pytest.mark.parametrize(
    ("labels", "answers", "problem_type"),
    [
        (5, torch.tensor([4, 0, 2]), None),
        (1, torch.tensor([0.5, -2.0, 1.0]), None),
        (3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), "multi_label_classification"),
        (2, torch.tensor([[0.5, 1.0], [0.1, 0.2], [-1.0, 3.0]]), "regression"),
    ],
    ids=["one-class", "number", "several-classes", "numbers"],
)
def test_texts_are_classified_as_by_the_other_implementation(family, labels, answers, problem_type):
    theirs = twin(f"{family}ForSequenceClassification", num_labels=labels, problem_type=problem_type)
    model = ours_of(theirs)
    tokens, segments, padded = batch(model)
    other = theirs(**padded, labels=answers)
    scores = model(tokens, segments)["classification"]
    assert (scores - other.logits).abs().max() < 1e-5
    loss = classification_loss(scores, answers, model.config.problem_type)
    assert abs(loss - other.loss) < 1e-5
    same_gradients(model, theirs, loss, other.loss)


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta", "Albert"])
def test_tokens_are_labelled_as_by_the_other_implementation(family):
    theirs = twin(f"{family}ForTokenClassification", num_labels=5)
    model = ours_of(theirs)
    tokens, segments, padded = batch(model)
    answers = torch.randint(0, 5, (tokens.layout.tokens,))
    answers[2] = -100
    other = theirs(**padded, labels=tokens.with_values(answers + 100).pad(0) - 100)
    scores = model(tokens, segments)["token_labels"]
    assert (scores - valid(other.logits)).abs().max() < 1e-5
    loss = token_label_loss(scores, answers)
    assert abs(loss - other.loss) < 1e-5
    same_gradients(model, theirs, loss, other.loss)


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta", "Albert"])
def test_spans_are_found_as_by_the_other_implementation(family):
    """One text at a time for the loss: theirs counts padding among the places where an answer may begin."""
    theirs = twin(f"{family}ForQuestionAnswering")
    model = ours_of(theirs)
    tokens, segments, padded = batch(model)
    scores, other = model(tokens, segments)["spans"], theirs(**padded)
    assert (scores[:, 0] - valid(other.start_logits)).abs().max() < 1e-5
    assert (scores[:, 1] - valid(other.end_logits)).abs().max() < 1e-5
    first, last = torch.tensor([2, 0, 1]), torch.tensor([3, 0, 3])
    losses = []
    for row, text in enumerate(TEXTS):
        alone = {name: value[row : row + 1, : len(text)] for name, value in padded.items()}
        found = theirs(**alone, start_positions=first[row : row + 1], end_positions=last[row : row + 1])
        losses.append(found.loss)
    loss = span_loss(scores, tokens.layout, first, last)
    assert abs(loss - sum(losses) / 3) < 1e-5
    same_gradients(model, theirs, loss, sum(losses) / 3)


@pytest.mark.parametrize("kind", ["BertModel", "RobertaModel", "AlbertModel", "DistilBertModel"])
def test_the_bare_model_gives_hidden_states_and_a_pooled_text(kind):
    theirs = twin(kind)
    model = ours_of(theirs)
    tokens, segments, padded = batch(model)
    other = theirs(**padded)
    hidden = model.hidden(tokens, segments)
    assert (hidden.values - valid(other.last_hidden_state)).abs().max() < 1e-5
    assert model(tokens, segments) == {}
    if kind == "DistilBertModel":
        with pytest.raises(RegardError, match="no pooler"):
            model.pool(hidden)
    else:
        assert (model.pool(hidden) - other.pooler_output).abs().max() < 1e-5


# --- our own promises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "config", "counted", "paper"),
    [
        (Bert, bert.PRESETS["bert-base"], 110_106_428, 110e6),
        (Bert, bert.PRESETS["bert-large"], 336_226_108, 340e6),
        (Bert, bert.PRESETS["distilbert"], 66_985_530, 66e6),
        (Bert, bert.PRESETS["roberta-base"], 124_697_433, 125e6),
        (Albert, albert.PRESETS["albert-base"], 11_813_810, 12e6),
    ],
    ids=["bert-base", "bert-large", "distilbert", "roberta-base", "albert-base"],
)
def test_presets_have_the_sizes_of_the_papers(kind, config, counted, paper):
    with torch.device("meta"):
        found = kind(config).count_parameters()
    assert found == counted
    assert abs(found / paper - 1) < 0.02


ALL = {"heads": ("masked_words", "next_sentence", "classification", "token_labels", "spans"), "labels": ("a", "b", "c")}


@pytest.mark.parametrize(("kind", "changes"), [(Bert, {}), (Albert, {"embedding_size": 7, "num_hidden_groups": 2})])
def test_ragged_equals_one_by_one_in_every_head(kind, changes):
    model = built(kind, **ALL, **changes)
    together = model(Sequences.of_ids(TEXTS), Sequences.of_ids(SEGMENTS).values)
    alone = [
        model(Sequences.of_ids([text]), torch.tensor(segments)) for text, segments in zip(TEXTS, SEGMENTS, strict=True)
    ]
    assert list(together) == list(ALL["heads"])
    for name, scores in together.items():
        assert torch.allclose(scores, torch.cat([one[name] for one in alone]), atol=1e-5)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    segments=st.integers(0, 2),
    pooler=st.sampled_from(["tanh", "relu"]),
    first=st.integers(0, 2),
)
def test_every_part_equals_its_steps(lengths, segments, pooler, first):
    torch.manual_seed(2)
    model = built(**ALL, type_vocab_size=segments, pooler=pooler, first_position=first)
    tokens = Sequences.of([torch.randint(0, 29, (length,)) for length in lengths])
    kinds = torch.randint(0, segments, (tokens.layout.tokens,)) if segments else None
    embedded, hidden, found = model.embeddings(tokens, kinds), model.hidden(tokens, kinds), model(tokens, kinds)
    for row, text in enumerate(tokens):
        part = slice(sum(lengths[:row]), sum(lengths[: row + 1]))
        chosen = None if kinds is None else kinds[part]
        steps = model.embeddings.steps(text, torch.arange(len(text)), chosen)
        assert torch.allclose(steps["output"], embedded[row], atol=1e-5)
        x = steps["output"]
        for layer in model.encoder.layers:
            x = layer.steps(x, slice(None))["output"]
        assert torch.allclose(x, hidden[row], atol=1e-4)
        pooled = model.pooler.steps(hidden[row])
        assert torch.allclose(pooled["output"], model.pool(hidden)[row : row + 1], atol=1e-5)
        words = model.heads["masked_words"].steps(hidden[row], model.embeddings.words.weight)
        assert torch.allclose(words["output"], found["masked_words"][part], atol=1e-5)
        judged = model.heads["classification"].steps(pooled["output"])["output"]
        assert torch.allclose(judged, found["classification"][row : row + 1], atol=1e-5)


def test_shared_layers_are_counted_saved_and_loaded_once(tmp_path):
    model = built(Albert, embedding_size=7, num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2)
    assert model.config.weights_of == [0, 1, 0, 1, 0, 1, 6, 7, 6, 7]
    saved = {name.split(".")[2] for name in model.state_dict() if name.startswith("encoder.layers")}
    assert saved == {"0", "1", "6", "7"}
    assert sum(value.numel() for value in model.state_dict().values()) == model.count_parameters()
    assert len({id(layer) for layer in model.encoder.layers}) == 10
    model.save(tmp_path)
    back = Albert.load(tmp_path)
    assert back.config == model.config
    tokens = Sequences.of_ids(TEXTS)
    for name, scores in model(tokens).items():
        assert torch.equal(back(tokens)[name], scores)


def test_sentence_embeddings_are_means_or_first_tokens_of_length_one():
    hidden = Sequences.of([torch.randn(3, 4), torch.randn(1, 4)])
    assert torch.allclose(sentence_embeddings(hidden)[0], F.normalize(hidden[0].mean(0), dim=0), atol=1e-6)
    assert torch.allclose(sentence_embeddings(hidden, normalise=False)[1], hidden[1][0], atol=1e-6)
    assert torch.equal(sentence_embeddings(hidden, "first", normalise=False)[0], hidden[0][0])
    assert torch.allclose(sentence_embeddings(hidden, "first").norm(dim=-1), torch.ones(2))


def test_the_best_span_ends_where_it_begins_or_later():
    layout = Sequences.of_ids([[1, 2, 3], [4, 5]]).layout
    scores = torch.tensor([[0.0, 9.0], [5.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
    assert best_spans(scores, layout) == [(0, 0), (0, 1)]
    scores[0, 1] = 1.0
    assert best_spans(scores, layout) == [(1, 2), (0, 1)]
    assert best_spans(scores, layout, longest=1) == [(1, 1), (0, 0)]


def test_training_mode_drops_in_all_places_and_reaches_every_weight():
    model = built(**ALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.4).train()
    tokens, segments, _ = batch(model)
    assert not torch.allclose(model.hidden(tokens, segments).values, model.hidden(tokens, segments).values)
    sum(scores.square().mean() for scores in model(tokens, segments).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_not_there_is_told():
    model, tokens = built(heads=("masked_words",), type_vocab_size=0), Sequences.of_ids(TEXTS)
    with pytest.raises(RegardError, match="no head 'spans', only masked_words"):
        model.answer("spans", model.hidden(tokens))
    with pytest.raises(RegardError, match="needs at least one token"):
        built().pool(built().hidden(Sequences.of_ids([[3], []])))
    with pytest.raises(RegardError, match="no segments"):
        model(tokens, torch.zeros(13, dtype=torch.long))
    with pytest.raises(RegardError, match="a text of 18 tokens is too long: the model takes 17"):
        model(Sequences.of_ids([[3] * 18]))
    with pytest.raises(RegardError, match="the model takes 15"):
        built(first_position=2)(Sequences.of_ids([[3] * 16]))
    for wrong, told in (
        ({"num_attention_heads": 5}, "cannot be cut into 5 heads"),
        ({"pooler": None}, "'next_sentence' needs a pooler"),
        ({"heads": ("token_labels",)}, "needs labels"),
    ):
        with pytest.raises(ValueError, match=told):
            BertConfig(**{**SIZES, **wrong})
    with pytest.raises(ValueError, match="4 groups are more than 3 layers"):
        AlbertConfig(**SIZES, num_hidden_groups=4)


def test_it_learns_the_words_of_a_small_grammar():
    """Every text counts up from somewhere: a hidden word follows from its neighbours."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=12, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, heads=("masked_words",), hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    model, generator = Bert(config), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def texts(count: int) -> Sequences:
        return Sequences.of_ids([[1 + (start + place) % 11 for place in range(6)] for start in range(count)])

    for _ in range(100):
        masked = mask_words(texts(44), 12, 0, (), generator)
        loss = masked_word_loss(model, model.hidden(masked.tokens), masked.places, masked.answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hidden = texts(11)
    shown = hidden.values.clone()
    shown[3::6] = 0
    found = model.eval()(hidden.with_values(shown))["masked_words"].argmax(-1)
    assert (found[3::6] == hidden.values[3::6]).float().mean() > 0.7  # by chance 0.09
