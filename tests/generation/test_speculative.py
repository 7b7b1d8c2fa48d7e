"""Several tokens at once: the same logits, the same greedy text, the same distribution."""

import random
from collections import Counter

import pytest
import torch
from generation.families import WORDS, Table, built
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from regard import RegardError, Sequences
from regard.generation.search import Search, search
from regard.generation.speculative import ModelDraft, SourceDraft, accept
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig

TEXTS = [[5, 6, 7, 8, 3, 9], [9, 4], [10, 3, 10, 3, 10]]


def settings(family: str, **changes: object) -> Search:
    bos = 1 if family in ("transformer", "t5") else None
    return Search(bos, 2, **{"extra_length": 14, **changes})


@torch.no_grad()
def test_several_tokens_give_the_logits_of_one_after_the_other(family):
    model = built(family)
    source, new = Sequences.of_ids(TEXTS), torch.randint(3, WORDS, (3, 5))
    one, state = [], model.start(source)
    for token in new.unbind(dim=1):
        logits, state = model.step(token, state)
        one.append(logits)
    expected, begun = torch.stack(one, dim=1), model.start(source).length
    state = model.start(source)
    first, state = model.extend(new[:, :2], state)
    wrong, state = model.extend(new.flip(0)[:, 1:], state)
    state.cut(begun + 2)
    second, state = model.extend(new[:, 2:4], state)
    last, state = model.step(new[:, 4], state)
    found = torch.cat([first, second, last[:, None]], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wrong[:, :2], second, atol=1e-3)


@torch.no_grad()
def test_beams_that_share_a_source_read_several_tokens(family):
    model = built(family)
    rows, new = torch.tensor([0, 0, 1, 1, 2, 2]), torch.randint(3, WORDS, (6, 3))
    together, _ = model.extend(new, model.start(Sequences.of_ids(TEXTS)).select(rows))
    for place, row in enumerate(rows.tolist()):
        alone, _ = model.extend(new[place : place + 1], model.start(Sequences.of_ids([TEXTS[row]])))
        torch.testing.assert_close(together[place], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("itself", {}), ("another", {"repetition_penalty": 1.5}), ("another", {"prefix": (4, 5)}),
     ("source", {}), ("source", {"no_repeat_ngram_size": 2})],
)  # fmt: skip
def test_greedy_gives_the_same_text(family, kind, changes):
    model, how = built(family), settings(family, **changes)
    source = Sequences.of_ids(TEXTS)
    expected = search(model, source, how)
    other = model if kind == "itself" else built(family, seed=8)
    draft = SourceDraft() if kind == "source" else ModelDraft(other, model)
    found = search(model, source, how, draft=draft)
    assert [one.tokens for [one] in found] == [one.tokens for [one] in expected]
    assert [one.finished for [one] in found] == [one.finished for [one] in expected]
    for [ours], [plain] in zip(found, expected, strict=True):
        assert ours.log_probability == pytest.approx(plain.log_probability, abs=1e-4)


def test_a_draft_of_itself_is_always_kept():
    """Then the model reads only once for every `draft_tokens` + 1 tokens."""
    model, how = built("gpt"), Search(None, -1, extra_length=24, draft_tokens=5)
    reads = []
    extend = model.extend
    draft = ModelDraft(built("gpt"), model)
    model.extend = lambda tokens, state: (reads.append(tokens.shape[1]), extend(tokens, state))[1]
    [[answer]] = search(model, Sequences.of_ids([TEXTS[0]]), how, draft=draft)
    assert len(answer.tokens) == 24
    assert reads == [6, 6, 6, 6]


def test_the_source_is_a_good_draft_where_it_is_copied():
    """A table that copies: the draft brings several tokens a step."""
    text = [5, 6, 7, 8, 9, 10, 4, 3]
    proposer = SourceDraft().proposer(Sequences.of_ids([[*text, 2]]), Search(1, 2))
    assert [token for token, _ in proposer.propose([1], 4, None)] == [5, 6, 7, 8]
    assert [token for token, _ in proposer.propose([1, 5, 6, 7], 4, None)] == [8, 9, 10, 4]
    assert [token for token, _ in proposer.propose([1, 9, 10, 4], 9, None)] == [3, 2, 1, 9, 10, 4]
    assert proposer.propose([1, 2, 30], 4, None) == []


chances = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda values: sum(values) > 0.1)


@examples(max_examples=8)
@given(chances, chances, st.integers(0, 1000))
def test_what_is_kept_or_drawn_anew_follows_the_model(p, q, seed):
    """Algorithm 1, over an even grid of chances: the frequencies are p, whatever q is."""
    p, q = (torch.tensor(values, dtype=torch.float64) / sum(values) for values in (p, q))
    drawn, counted, rounds = random.Random(seed), Counter(), 2000
    for number in range(rounds):
        proposed = int(torch.searchsorted(q.cumsum(0), (number + 0.5) / rounds).clamp_max(3))
        counted[accept(p, (proposed, q), drawn)[0]] += 1
    for token in range(4):
        assert counted[token] / rounds == pytest.approx(float(p[token]), abs=0.06)


@pytest.mark.parametrize("kind", ["another", "source"])
def test_sampling_with_a_draft_has_the_distribution_of_sampling(kind):
    """Texts of up to three tokens from a table, counted, against what the table says."""

    def chances(text):
        rows = [[0.0, 0.0, 0.1, 0.5, 0.3, 0.1], [0.0, 0.0, 0.4, 0.1, 0.2, 0.3], [0.0, 0.0, 0.2, 0.2, 0.5, 0.1]]
        return torch.tensor(rows[sum(text) % 3])

    model = Table(chances)
    other = Table(lambda text: chances((*text, 4)))
    draft = SourceDraft() if kind == "source" else ModelDraft(other, model)
    count = 1200
    how = Search(1, 2, limit=3, sample=True, n_best=count, seed=1)
    [found] = search(model, Sequences.of_ids([[3, 4, 3]]), how, draft=draft)
    counted = Counter(one.tokens for one in found)
    expected = {(): 1.0}
    for _ in range(3):
        expected = {
            (*text, token) if token != 2 else (*text, 2): chance * float(chances(text)[token])
            for text, chance in expected.items()
            if 2 not in text
            for token in range(2, 6)
        } | {text: chance for text, chance in expected.items() if 2 in text}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    distance = 0.0
    for text, chance in expected.items():
        plain = tuple(token for token in text if token != 2)
        distance += abs(counted[plain] / count - chance) / 2 if (2 in text or len(text) == 3) else 0
    assert distance < 0.09  # a fair sample of so many texts is about 0.06 away
    assert counted.keys() <= {tuple(token for token in text if token != 2) for text in expected}


def test_what_cannot_draft_is_refused():
    model = built("gpt")
    recurrent = Seq2Seq(Seq2SeqConfig(vocab_size=WORDS, embedding_size=4, hidden_size=4))
    how, source = Search(None, 2), Sequences.of_ids(TEXTS)
    with pytest.raises(RegardError, match="a Seq2Seq cannot be a draft: it reads one token at a time"):
        ModelDraft(recurrent, model)
    with pytest.raises(RegardError, match="at once, as a Transformer: Seq2Seq does not"):
        search(recurrent, source, Search(1, 2), draft=SourceDraft())
    with pytest.raises(RegardError, match="leave beams and penalty_alpha out"):
        search(model, source, Search(None, 2, beams=2), draft=SourceDraft())
    larger = built("llama")
    larger.config = larger.config.model_copy(update={"vocab_size": 99})
    with pytest.raises(RegardError, match="11 tokens are not 99"):
        ModelDraft(model, larger)
    assert search(model, source, how, draft=SourceDraft())
