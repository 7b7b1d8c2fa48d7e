"""The answers of Hugging Face's `generate`, with the same weights and settings: five families, token by token."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from regard.generation.search import Search, search
from regard.hub import bart, gpt, llama, t5
from regard.models.gpt import GPT
from regard.models.llama import Llama
from regard.models.t5 import T5
from regard.models.transformer import Transformer
from regard.sequences import Sequences

VOCABULARY, BEGIN, END, LENGTH = 23, 1, 2, 9
TEXTS = [[5, 6, 7, 8, 3, 9], [9, 4, 20, 11, 3, 2]]
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 3, "eos_token_id": END, "pad_token_id": 0}
SEQ2SEQ = {
    **IDS, "d_model": 12, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 40,
    "decoder_start_token_id": BEGIN, "forced_eos_token_id": None,
}  # fmt: skip
SEQ2SEQ["encoder_attention_heads"] = 3
SETTINGS = {
    "marian": (MarianMTModel, MarianConfig, SEQ2SEQ, bart, Transformer),
    "bart": (
        BartForConditionalGeneration, BartConfig, {**SEQ2SEQ, "forced_bos_token_id": 4}, bart, Transformer,
    ),
    "t5": (
        T5ForConditionalGeneration, T5Config,
        {**IDS, "d_model": 12, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3, "decoder_start_token_id": 0},
        t5, T5,
    ),
    "gpt2": (
        GPT2LMHeadModel, GPT2Config, {**IDS, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 40}, gpt, GPT,
    ),
    "llama": (
        LlamaForCausalLM, LlamaConfig,
        {**IDS, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6,
         "num_key_value_heads": 2, "max_position_embeddings": 40},
        llama, Llama,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(SETTINGS))
def pair(request):
    """(theirs, ours, what begins an answer), with weights large enough that answers differ and end."""
    their_kind, their_config, sizes, hub, our_kind = SETTINGS[request.param]
    torch.manual_seed(5)
    theirs = their_kind(their_config(**sizes)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "position" not in name:
                parameter.add_(0.35 * torch.randn_like(parameter))
    theirs.generation_config.max_length = None
    config = hub.read_config(theirs.config.to_dict())
    ours = our_kind(config).eval()
    ours.load_state_dict(hub.read_weights(config, theirs.state_dict()))
    bos = theirs.config.decoder_start_token_id if theirs.config.is_encoder_decoder else None
    return theirs, ours, bos


@torch.no_grad()
def both(pair, ours=None, **theirs):
    """Answers of both, each as (tokens, score); ours alone where theirs takes the option under another name."""
    model, own, bos = pair
    source = torch.tensor(TEXTS)
    count = theirs.get("num_return_sequences", 1)
    found = model.generate(
        input_ids=source, attention_mask=torch.ones_like(source), max_new_tokens=LENGTH, do_sample=False,
        output_scores=True, return_dict_in_generate=True, **theirs,
    )  # fmt: skip
    skipped = 1 if bos is not None else source.shape[1]
    scores = getattr(found, "sequences_scores", None)
    expected = [
        (ended(row[skipped:].tolist()), None if scores is None else float(scores[place]))
        for place, row in enumerate(found.sequences)
    ]
    first = getattr(own.config, "forced_bos_token_id", None)
    how = Search(
        bos, END, length_rule="power", **{"length_penalty": 1.0, **(ours or {})}, first=first,
        **({"limit": LENGTH} if bos is not None else {"extra_length": LENGTH}),
    )  # fmt: skip
    answers = search(own, Sequences.of_ids(TEXTS), how)
    flat = [answer for row in answers for answer in row[:count]]
    return [(list(one.tokens) + [END] * one.finished, one.score) for one in flat], expected


def ended(tokens: list[int]) -> list[int]:
    """Up to the end token; the rest is padding."""
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def agree(found):
    ours, theirs = found
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
    if theirs[0][1] is not None:
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-4)


def test_greedy(pair):
    agree(both(pair))


@pytest.mark.parametrize(
    "changes",
    [{"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 0.8, "no_repeat_ngram_size": 1}],
)
def test_greedy_with_penalties(pair, changes):
    agree(both(pair, ours=changes, **changes))


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0, -1.0])
def test_beams_with_the_best_four(pair, early_stopping, length_penalty):
    changes = {"early_stopping": early_stopping, "length_penalty": length_penalty}
    agree(both(pair, ours={"beams": 4, **changes}, num_beams=4, num_return_sequences=4, **changes))


@pytest.mark.parametrize("beams", [1, 3])
def test_penalties_and_forbidden_phrases_in_a_beam(pair, beams):
    plain = both(pair)[0]
    phrase = next(tuple(tokens[1:3]) for tokens, _ in plain if len(tokens) > 3)
    single = next(token for tokens, _ in plain for token in tokens if token not in (4, END))
    ours = {"beams": beams, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "must_not": (phrase, (single,))}
    agree(
        both(
            pair, ours=ours, num_beams=beams, repetition_penalty=1.3, no_repeat_ngram_size=3,
            bad_words_ids=[list(phrase), [single]],
        )
    )  # fmt: skip


def test_at_least_so_many_tokens(pair):
    agree(both(pair, ours={"beams": 2, "min_tokens": 6}, num_beams=2, min_new_tokens=6))


def test_sampling_keeps_the_tokens_that_theirs_keeps():
    """The distribution that is drawn from, against theirs step by step of the same chain."""
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    from regard.generation.sampling import probabilities

    logits = 3 * torch.randn(40, VOCABULARY)
    for changes, chain in [
        ({"temperature": 0.6}, [TemperatureLogitsWarper(0.6)]),
        ({"top_k": 5}, [TopKLogitsWarper(5)]),
        ({"temperature": 1.7, "top_k": 9, "top_p": 0.8}, [
            TemperatureLogitsWarper(1.7), TopKLogitsWarper(9), TopPLogitsWarper(0.8),
        ]),
        ({"top_p": 0.3}, [TopPLogitsWarper(0.3)]),
        ({"temperature": 1.3, "min_p": 0.1}, [TemperatureLogitsWarper(1.3), MinPLogitsWarper(0.1)]),
    ]:  # fmt: skip
        expected = logits
        for warper in chain:
            expected = warper(None, expected)
        found = probabilities(logits, Search(None, END, **changes))
        torch.testing.assert_close(found, expected.softmax(dim=-1), atol=1e-6, rtol=1e-5)
