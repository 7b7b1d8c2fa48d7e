"""Token by token: the same answer as the search, begun as one likes, drawn as often as it is probable."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from regard import Sequences, Transformer, TransformerConfig
from regard.errors import RegardError
from regard.generation.search import Search, search
from regard.generation.stream import stream
from regard.models.gpt import GPT, GPTConfig

TRANSLATOR = Transformer(
    TransformerConfig(vocab_size=31, d_model=12, encoder_layers=1, decoder_layers=2, attention_heads=2, ffn_dim=20)
).eval()
WRITER = GPT(GPTConfig(vocab_size=31, n_embd=12, n_layer=2, n_head=3, n_positions=40)).eval()


def ways():
    yield TRANSLATOR, replace(Search.of_translator(TRANSLATOR.config, 1, 0.6), extra_length=5)
    yield WRITER, Search(None, 3, extra_length=10, limit=40)


@pytest.mark.parametrize("way", [0, 1], ids=["translator", "writer"])
def test_greedy_is_the_search_and_a_beginning_is_kept(way):
    model, how = list(ways())[way]
    for seed in range(3):
        torch.manual_seed(seed)
        source = Sequences.of([torch.randint(4, 31, (5,))])
        found = list(stream(model, source, how))
        assert found == list(search(model, source, how)[0][0].tokens)
        assert list(stream(model, source, how, begin=found[:3])) == found
        begun = list(stream(model, source, how, begin=[7, 9]))
        assert begun[:2] == [7, 9]
        assert list(stream(model, source, how, begin=begun[:4])) == begun
        for coldest in (1e-30, 1e-320):
            assert list(stream(model, source, replace(how, temperature=coldest, top_p=1e-30))) == found
        drawn = replace(how, temperature=1.5, seed=seed)
        assert list(stream(model, source, drawn)) == list(search(model, source, drawn)[0][0].tokens)


def test_draws_follow_the_probabilities():
    source = Sequences.of([torch.tensor([5, 9, 11])])
    how = Search(None, -1, extra_length=1, limit=40)
    with torch.no_grad():
        expected = (WRITER.logits(WRITER.hidden(source).values[-1:])[0] / 0.5).softmax(dim=-1)
    drawn = Counter(next(stream(WRITER, source, replace(how, temperature=0.5, seed=seed))) for seed in range(300))
    for token, probability in enumerate(expected.tolist()):
        assert drawn[token] / 300 == pytest.approx(probability, abs=0.1)
    order = expected.argsort(descending=True).tolist()
    top = float(expected[order[:3]].sum()) - 1e-4
    few = {next(stream(WRITER, source, replace(how, temperature=0.5, top_p=top, seed=seed))) for seed in range(60)}
    assert few == set(order[:3])


def test_one_text_only():
    two = Sequences.of([torch.tensor([5]), torch.tensor([6])])
    with pytest.raises(RegardError, match="one text"):
        next(stream(WRITER, two, Search(None, 3)))
