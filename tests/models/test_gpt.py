"""GPT and GPT-2 against an implementation that nobody here wrote: same weights, ragged against padded."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
)

from regard import RegardError, Sequences
from regard.attention import causal_mask
from regard.generation.search import Search, search
from regard.hub import gpt as hub
from regard.models.decoder import language_model_loss, last_of_each
from regard.models.gpt import (
    GPT,
    PRESETS,
    GPTConfig,
    TaskTokens,
    fine_tuning_loss,
    with_more_tokens,
)

SIZES = {"vocab_size": 29, "n_positions": 13, "n_embd": 12, "n_layer": 3, "n_head": 3}
TEXTS = [[5, 6, 7, 8, 3, 9, 4], [9, 2], [11, 12, 13, 28]]
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def twin(kind: type, **changes: object) -> torch.nn.Module:
    """Their model with random weights; biases and norms too, so that none of them goes unnoticed."""
    config_class = GPT2Config if kind.__name__.startswith("GPT2") else OpenAIGPTConfig
    model = kind(config_class(**{**SIZES, **IDS, "attn_implementation": "eager", **changes})).eval()
    model.config.architectures = [kind.__name__]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def ours_of(theirs: torch.nn.Module) -> GPT:
    config = hub.read_config(theirs.config.to_dict())
    model = GPT(config).eval()
    model.load_state_dict(hub.read_weights(config, theirs.state_dict()))
    return model


def built(**changes: object) -> GPT:
    model = GPT(GPTConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded(fill: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batch = Sequences.of_ids(TEXTS)
    return batch.pad(fill), batch.layout.present.long()


def valid(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([row[: len(text)] for row, text in zip(values, TEXTS, strict=True)])


def entering(model: GPT, tokens: Sequences) -> list[Sequences]:
    """What enters each layer, and what leaves the last norm."""
    noted: list[Sequences] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, given: noted.append(given[0])) for layer in model.decoder.layers
    ]
    noted.append(model.hidden(tokens))
    for handle in handles:
        handle.remove()
    return noted


CASES = [
    pytest.param(OpenAIGPTLMHeadModel, {}, id="gpt"),
    pytest.param(OpenAIGPTLMHeadModel, {"afn": "relu", "layer_norm_epsilon": 0.1}, id="gpt-relu-eps"),
    pytest.param(OpenAIGPTLMHeadModel, {"afn": "swish", "tie_word_embeddings": False}, id="gpt-silu-untied"),
    pytest.param(GPT2LMHeadModel, {}, id="gpt2"),
    pytest.param(GPT2LMHeadModel, {"n_inner": 17, "layer_norm_epsilon": 0.1}, id="gpt2-inner-eps"),
    pytest.param(GPT2LMHeadModel, {"activation_function": "gelu"}, id="gpt2-gelu"),
    pytest.param(GPT2LMHeadModel, {"activation_function": "relu", "tie_word_embeddings": False}, id="gpt2-relu-untied"),
    pytest.param(GPT2LMHeadModel, {"scale_attn_weights": False}, id="gpt2-unscaled"),
    pytest.param(GPT2LMHeadModel, {"scale_attn_by_inverse_layer_idx": True}, id="gpt2-layer-scale"),
    pytest.param(
        GPT2LMHeadModel,
        {
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "activation_function": "gelu_pytorch_tanh",
        },
        id="gpt2-all-scales",
    ),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_all_numbers_are_those_of_the_other_implementation(kind, changes):
    theirs = twin(kind, **changes)
    model = ours_of(theirs)
    tokens, (ids, present) = Sequences.of_ids(TEXTS), padded()
    other = theirs(
        ids, attention_mask=present, labels=ids.masked_fill(present == 0, -100),
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    logits, loss = model(tokens), language_model_loss(model, model.hidden(tokens), tokens)
    assert (logits - valid(other.logits)).abs().max() < 1e-5
    assert abs(loss - other.loss) < 1e-5
    streams = entering(model, tokens)
    assert len(streams) == len(other.hidden_states) == 4
    for stream, hidden in zip(streams, other.hidden_states, strict=True):
        assert (stream.values - valid(hidden)).abs().max() < 1e-5
    for layer, stream, attentions in zip(model.decoder.layers, streams, other.attentions, strict=False):
        for row, text in enumerate(TEXTS):
            size = len(text)
            steps = layer.steps(stream[row], slice(None), causal_mask(size, size))
            assert (steps["self_attention.weights"] - attentions[row, :, :size, :size]).abs().max() < 1e-5
    loss.backward()
    other.loss.backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    expected = hub.read_weights(model.config, gradients)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("kind", [OpenAIGPTDoubleHeadsModel, GPT2DoubleHeadsModel])
def test_a_choice_is_scored_as_by_the_other_implementation(kind):
    theirs = twin(kind)
    model = ours_of(theirs)
    assert model.config.labels == ("LABEL_0",)
    texts = [[5, 6, 7, 8], [5, 6, 3, 4], [9, 2, 4, 4], [9, 2, 7, 1]]  # two questions, two choices
    ids = torch.tensor(texts).view(2, 2, 4)
    answers = torch.tensor([1, 0])
    labels = {"labels": ids, "mc_labels": answers}
    other = theirs(ids, mc_token_ids=torch.full((2, 2), 3), **labels)
    tokens = Sequences.of_ids(texts)
    assert (model.choose(tokens, 2) - other.mc_logits).abs().max() < 1e-5
    both = fine_tuning_loss(model, tokens, answers, choices=2, weight=0.25)
    assert abs(both - (other.mc_loss + 0.25 * other.loss)) < 1e-5
    both.backward()
    (other.mc_loss + 0.25 * other.loss).backward()
    expected = hub.read_weights(model.config, {name: value.grad for name, value in theirs.named_parameters()})
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("kind", [OpenAIGPTForSequenceClassification, GPT2ForSequenceClassification])
def test_a_text_is_classified_as_by_the_other_implementation(kind):
    theirs = twin(kind, num_labels=5)
    model = ours_of(theirs)
    ids, present = padded()
    answers = torch.tensor([4, 0, 2])
    other = theirs(ids, attention_mask=present, labels=answers)
    tokens = Sequences.of_ids(TEXTS)
    assert (model.classify(tokens) - other.logits).abs().max() < 1e-5
    assert abs(fine_tuning_loss(model, tokens, answers, weight=0.0) - other.loss) < 1e-5
    head = model.classifier.steps(model.hidden(tokens)[1])
    assert torch.allclose(head["output"], model.classify(tokens)[1:2], atol=1e-5)


# --- our own promises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counted", "paper"),
    [
        ("gpt1", 116_534_784, 117e6),
        ("gpt2", 124_439_808, 124e6),
        ("gpt2-medium", 354_823_168, 355e6),
        ("gpt2-large", 774_030_080, 774e6),
        ("gpt2-xl", 1_557_611_200, 1558e6),
    ],
)
def test_presets_have_the_sizes_of_the_papers(name, counted, paper):
    with torch.device("meta"):
        found = GPT(PRESETS[name]).count_parameters()
    assert found == counted
    assert abs(found / paper - 1) < 0.005


@pytest.mark.parametrize("normalize_before", [False, True])
def test_ragged_equals_one_by_one(normalize_before):
    model = built(normalize_before=normalize_before)
    alone = torch.cat([model(Sequences.of_ids([text])) for text in TEXTS])
    assert torch.allclose(model(Sequences.of_ids(TEXTS)), alone, atol=1e-5)


@given(st.data())
def test_any_prompts_and_any_rows_at_any_step(data):
    """Cached equals uncached: prompts of different lengths, rows that are dropped, repeated and change places."""
    torch.manual_seed(0)
    model = built(normalize_before=data.draw(st.booleans()), scale_attn_by_inverse_layer_idx=data.draw(st.booleans()))
    words = st.integers(0, 28)
    rows = data.draw(st.lists(st.lists(words, min_size=1, max_size=5), min_size=1, max_size=4))
    with torch.no_grad():
        state, last = model.start(Sequences.of_ids(rows)), [row[-1] for row in rows]
        for _ in range(3):
            logits, state = model.step(torch.tensor(last), state)
            whole = model(Sequences.of_ids(rows))
            assert torch.allclose(logits, last_of_each(Sequences(whole, Sequences.of_ids(rows).layout)), atol=1e-4)
            chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
            last = data.draw(st.lists(words, min_size=len(chosen), max_size=len(chosen)))
            rows = [[*rows[row], token] for row, token in zip(chosen, last, strict=True)]
            state = state.select(torch.tensor(chosen))


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_greedy_answers_are_those_of_the_other_implementation():
    theirs = twin(GPT2LMHeadModel)
    model = ours_of(theirs)
    rows = [[5, 6, 7, 8, 3], [9], [11, 12]]
    left = torch.tensor([[0] * (5 - len(row)) + row for row in rows])
    present = torch.tensor([[0] * (5 - len(row)) + [1] * len(row) for row in rows])
    for eos in (2, 17, int(model(Sequences.of_ids(rows))[4].argmax())):  # the last one ends the first row at once
        found = theirs.generate(left, attention_mask=present, max_new_tokens=8, do_sample=False, eos_token_id=eos)
        answers = search(model, Sequences.of_ids(rows), Search(bos=None, eos=eos, extra_length=8))
        for [answer], row in zip(answers, found[:, 5:].tolist(), strict=True):
            assert list(answer.tokens) == (row[: row.index(eos)] if eos in row else row)
            assert answer.finished == (eos in row)


def test_a_beam_continues_each_prompt_as_it_would_alone():
    model = built(normalize_before=True)
    rows = [[5, 6, 7, 8, 3], [9], [11, 12]]
    how = Search(bos=None, eos=2, beams=3, extra_length=4)
    together = search(model, Sequences.of_ids(rows), how)
    for row, answers in zip(rows, together, strict=True):
        [alone] = search(model, Sequences.of_ids([row]), how)
        assert [answer.tokens for answer in answers] == [answer.tokens for answer in alone]
        best = [*row, *answers[0].tokens, *[2] * answers[0].finished]
        scores = model(Sequences.of_ids([best])).log_softmax(-1)
        expected = scores[range(len(row) - 1, len(best) - 1), best[len(row) :]].sum()
        assert answers[0].log_probability == pytest.approx(expected.item(), abs=1e-4)


def test_what_is_too_long_or_empty_is_told():
    model = built()
    with pytest.raises(RegardError, match="a text of 14 tokens is too long: the model takes 13"):
        model(Sequences.of_ids([[3] * 14]))
    with pytest.raises(RegardError, match="at least one token"):
        model.start(Sequences.of_ids([[3], []]))
    with pytest.raises(RegardError, match="leaves no room to go on: 13 are the limit"):
        search(model, Sequences.of_ids([[3] * 13]), Search(bos=None, eos=2, limit=13))
    [[answer]] = search(model, Sequences.of_ids([[3] * 9]), Search(bos=None, eos=99, limit=13))
    assert len(answer.tokens) == 4
    with pytest.raises(RegardError, match="to judge needs at least one token"):
        built(labels=("a",)).classify(Sequences.of_ids([[3], []]))
    with pytest.raises(RegardError, match="no classifying head"):
        model.classify(Sequences.of_ids([[3]]))
    with pytest.raises(ValueError, match="cannot be cut into 5 heads"):
        GPTConfig(n_embd=12, n_head=5)


# --- fine-tuning ---------------------------------------------------------------------------------------------------


def test_a_task_is_one_sequence():
    task = TaskTokens(start=40, delimiter=41, extract=42)
    assert task.classification([1, 2]) == [40, 1, 2, 42]
    assert task.entailment([1], [2, 3]) == [40, 1, 41, 2, 3, 42]
    assert task.similarity([1], [2]) == ([40, 1, 41, 2, 42], [40, 2, 41, 1, 42])
    assert task.multiple_choice([1], [[2], [3, 4]]) == [[40, 1, 41, 2, 42], [40, 1, 41, 3, 4, 42]]


def test_a_pair_is_compared_in_both_orders():
    model, task = built(labels=("no", "yes")), TaskTokens(26, 27, 28)
    pairs = [task.similarity([3, 4], [5]), task.similarity([6], [7, 8, 9])]
    first, second = (Sequences.of_ids([pair[side] for pair in pairs]) for side in (0, 1))
    found = model.compare(first, second)
    assert torch.allclose(found, model.compare(second, first), atol=1e-5)
    head = model.classifier.output
    extracted = last_of_each(model.hidden(first)) + last_of_each(model.hidden(second))
    assert torch.allclose(found, F.linear(extracted, head.weight, head.bias), atol=1e-5)


def test_new_tokens_and_a_head_leave_the_rest_as_it_was():
    model = built(normalize_before=True)
    tuned = with_more_tokens(model, 3, ["good", "bad"]).eval()
    assert tuned.config.vocab_size == 32
    tokens = Sequences.of_ids(TEXTS)
    assert torch.allclose(tuned(tokens)[:, :29], model(tokens), atol=1e-6)
    assert tuned.classify(Sequences.of_ids([[29, 5, 31]])).shape == (1, 2)


def test_training_mode_drops_in_all_places_and_reaches_every_weight():
    model = built(labels=("a", "b"), resid_pdrop=0, embd_pdrop=0, attn_pdrop=0.4, classifier_dropout=0.0).train()
    tokens, answers = Sequences.of_ids(TEXTS), torch.tensor([0, 1, 0])
    assert not torch.allclose(model(tokens), model(tokens))
    fine_tuning_loss(model, tokens, answers).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(model.eval()(tokens), model(tokens))


def test_a_folder_gives_the_same_model_back(tmp_path):
    model = built(normalize_before=True, labels=("a", "b"), tie_word_embeddings=False)
    model.save(tmp_path)
    back = GPT.load(tmp_path)
    assert back.config == model.config
    assert torch.equal(back(Sequences.of_ids(TEXTS)), model(Sequences.of_ids(TEXTS)))


def test_it_learns_to_count():
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=11, n_positions=12, n_embd=16, n_layer=1, n_head=2, normalize_before=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        starts = torch.randint(0, 11, (16,)).tolist()
        tokens = Sequences.of_ids([[(start + place) % 11 for place in range(6)] for start in starts])
        loss = language_model_loss(model, model.hidden(tokens), tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    [[answer]] = search(model.eval(), Sequences.of_ids([[8, 9]]), Search(bos=None, eos=7, extra_length=12, limit=12))
    assert answer.tokens == (10, 0, 1, 2, 3, 4, 5, 6)
