"""Every option out of its range, and every contradiction, is one error that names the option; so are broken scores."""

import dataclasses

import pytest
import torch
from generation.families import Table, built

from regard import RegardError, Sequences
from regard.generation.search import Search, search
from regard.generation.settings import OPTIONS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 0}, "beams must be a whole number of 1 or more, not 0"),
        ({"beams": True}, "beams must be a whole number"),
        ({"length_penalty": float("nan")}, "length_penalty must be a finite number, not nan"),
        ({"n_best": 0}, "n_best must be a whole number of 1 or more, not 0"),
        ({"min_tokens": -1}, "min_tokens must be a whole number of 0 or more"),
        ({"length_rule": "hf"}, "length_rule must be wu or power, not 'hf'"),
        ({"early_stopping": "often"}, "early_stopping must be True, False or 'never', not 'often'"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0.0"),
        ({"temperature": float("inf")}, "temperature must be above 0, not inf"),
        ({"top_k": 0}, "top_k must be a whole number of 1 or more, not 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": 1.01}, "top_p must be above 0 and at most 1, not 1.01"),
        ({"min_p": -0.1}, "min_p must be above 0 and at most 1, not -0.1"),
        ({"seed": -1}, "seed must be a whole number of 0 or more, not -1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, not 0"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size must be a whole number of 0 or more, not -2"),
        ({"coverage_penalty": -1}, "coverage_penalty must be 0 or more, not -1"),
        ({"penalty_alpha": 1.1, "top_k": 4}, "penalty_alpha must be from 0 to 1, not 1.1"),
        ({"groups": 0}, "groups must be a whole number of 1 or more, not 0"),
        ({"draft_tokens": 0}, "draft_tokens must be a whole number of 1 or more, not 0"),
        ({"sample": False, "temperature": 0.8}, "temperature is for sampling: leave it out, or sample"),
        ({"sample": False, "top_k": 3}, "top_k is for sampling or contrastive search"),
        ({"beams": 2, "top_p": 0.9}, "sampling (top_p) and beams exclude each other: beams must be 1"),
        ({"min_p": 0.1, "top_p": 0.9}, "min_p and top_p exclude each other: give one"),
        ({"penalty_alpha": 0.6}, "penalty_alpha (contrastive search) needs top_k"),
        ({"penalty_alpha": 0.6, "top_k": 4, "temperature": 2.0}, "leave temperature out"),
        ({"penalty_alpha": 0.6, "top_k": 4, "beams": 2}, "penalty_alpha (contrastive search) and beams exclude"),
        ({"n_best": 2}, "n_best must be at most beams, 1 (or sample): not 2"),
        ({"beams": 4, "groups": 3}, "groups must divide beams: 4 beams are not 3 equal groups"),
        ({"beams": 4, "diversity_penalty": 1.0}, "diversity_penalty needs groups of 2 or more"),
        ({"early_stopping": True}, "early_stopping needs beams of 2 or more"),
        ({"coverage_penalty": 0.2}, "coverage_penalty needs beams of 2 or more"),
        ({"bos": None, "beams": 2, "coverage_penalty": 0.2}, "coverage_penalty needs a model with a source"),
        ({"must": ((3,),)}, "must needs beams of 2 or more"),
        ({"must": ((3, 4),), "must_not": ((4,),), "beams": 2}, "must_not forbids what must or prefix asks for"),
        ({"prefix": (2,)}, "the end token cannot be asked for"),
        ({"prefix": (5,), "forbidden": (5,)}, "must or prefix asks for a forbidden token"),
        ({"prefix": (5, 6), "limit": 1}, "have to fit into the limit of 1 tokens"),
        ({"must_not": ((),)}, "must_not has an empty phrase"),
    ],
)  # fmt: skip
def test_one_error_names_the_option(changes, message):
    with pytest.raises(RegardError) as told:
        Search(**{"bos": 1, "eos": 2, **changes})
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_every_option_can_be_named_and_unknown_ones_are_told():
    assert {field.name for field in dataclasses.fields(Search)} > OPTIONS
    config = built("transformer").config
    with pytest.raises(RegardError, match="no search option 'temprature'; did you mean temperature"):
        Search.of_translator(config, 1, 0.6, temprature=0.7)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "changes",
    [{}, {"beams": 3}, {"temperature": 0.7, "seed": 1}, {"repetition_penalty": 1.2}, {"beams": 2, "must": ((3,),)},
     {"beams": 2, "groups": 2}],
)  # fmt: skip
def test_scores_that_are_no_numbers_name_text_and_step(wrong, changes):
    """The second text's third step is broken; others are not."""

    class Broken(Table):
        def step(self, tokens, state):
            logits, state = super().step(tokens, state)
            for row, text in enumerate(state.texts):
                if len(text) == 3 and tokens.shape[0] > 1 and row >= len(state.texts) // 2:
                    logits[row, 4] = wrong
            return logits, state

    model = Broken(lambda text: torch.tensor([0.0, 0.0, 0.01, 0.5, 0.29, 0.2]))
    how = Search(1, 2, limit=5, **changes)
    with pytest.raises(RegardError, match="^text 12, step 3: the model's scores are not finite numbers$"):
        search(model, Sequences.of_ids([[7, 7], [7, 8]]), how, numbers=[3, 11])


def test_contrastive_search_and_drafts_tell_it_too():
    from regard.generation.speculative import SourceDraft

    model, source = built("gpt"), Sequences.of_ids([[5, 6]])
    with torch.no_grad():
        model.embedding.weight[7] = float("nan")
    message = "text 1, step 1: the model's scores are not finite numbers"
    with pytest.raises(RegardError, match=message):
        search(model, source, Search(None, 2, penalty_alpha=0.6, top_k=4))
    for changes in ({}, {"temperature": 1.0}):
        with pytest.raises(RegardError, match=message):
            search(model, source, Search(None, 2, **changes), draft=SourceDraft())


def test_what_cannot_generate_is_refused():
    with pytest.raises(RegardError, match="a Linear cannot generate: it has no start and step"):
        search(torch.nn.Linear(2, 2), Sequences.of_ids([[3]]), Search(1, 2))
