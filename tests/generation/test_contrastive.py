"""Contrastive search against equation 5 read plainly, without caches and without a batch."""

import pytest
import torch
import torch.nn.functional as F
from generation.families import built

from regard import RegardError, Sequences
from regard.generation.search import Search, search
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig

TEXTS = [[5, 6, 7, 8, 3, 9], [9, 4], [10, 3, 10, 3, 10]]
LENGTH, END = 6, 2


@torch.no_grad()
def plainly(model, source, bos, count, alpha):
    """Reads the whole text anew for every candidate."""

    def hidden(text):
        if bos is None:
            return model.hidden(Sequences.of_ids([[*source, *text]])).values
        return model.decode(Sequences.of_ids([[bos, *text]]), model.encode(Sequences.of_ids([source]))).values

    text = []
    for _ in range(LENGTH):
        seen = hidden(text)
        chances, tokens = model.logits(seen[-1:])[0].softmax(-1).topk(count)
        scores = []
        for chance, token in zip(chances, tokens.tolist(), strict=True):
            new = hidden([*text, token])[-1]
            scores.append(float((1 - alpha) * chance - alpha * F.cosine_similarity(new[None], seen).max()))
        token = int(tokens[scores.index(max(scores))])
        if token == END:
            return text, True
        text.append(token)
    return text, False


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_the_answers_of_equation_5(family, alpha):
    model = built(family)
    bos = 1 if family in ("transformer", "t5") else None
    how = Search(bos, END, penalty_alpha=alpha, top_k=4, extra_length=LENGTH, limit=LENGTH if bos else 64)
    found = search(model, Sequences.of_ids(TEXTS), how)
    for text, [ours] in zip(TEXTS, found, strict=True):
        assert (list(ours.tokens), ours.finished) == plainly(model, text, bos, 4, alpha)


def test_alpha_0_is_greedy_and_a_model_without_hidden_states_is_refused():
    model, source = built("gpt"), Sequences.of_ids(TEXTS)
    greedy = search(model, source, Search(None, END, extra_length=LENGTH))
    found = search(model, source, Search(None, END, penalty_alpha=0.0, top_k=3, extra_length=LENGTH))
    for [ours], [plain] in zip(found, greedy, strict=True):
        assert ours.tokens == plain.tokens
        assert ours.log_probability == pytest.approx(plain.log_probability, abs=1e-4)
    recurrent = Seq2Seq(Seq2SeqConfig(vocab_size=11, embedding_size=4, hidden_size=4))
    with pytest.raises(RegardError, match="needs hidden states; Seq2Seq gives none"):
        search(recurrent, source, Search(1, END, penalty_alpha=0.5, top_k=3))
