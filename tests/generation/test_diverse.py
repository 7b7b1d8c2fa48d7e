"""Groups of beams, against a plain reading of the paper's algorithm 1."""

import pytest
import torch
from generation.families import built

from regard import Sequences
from regard.generation.search import Search, search
from regard.generation.settings import length_penalty

SOURCE, END, LIMIT = [5, 6, 7, 8, 2], 2, 6


@torch.no_grad()
def plainly(model, groups, size, penalty):
    """One group after the other at every step; each is a beam search whose candidates pay for tokens just taken."""
    beams = [[((), 0.0)] for _ in range(groups)]
    ended = [[] for _ in range(groups)]
    for length in range(1, LIMIT + 1):
        taken = torch.zeros(model.config.vocab_size)
        for group in range(groups):
            if not beams[group]:
                continue
            ways = []
            for text, total in beams[group]:
                scores = model(Sequences.of_ids([SOURCE]), Sequences.of_ids([[1, *text]]))[-1].log_softmax(-1)
                ways += [
                    (total + float(score) - penalty * float(taken[token]), (*text, token), total + float(score))
                    for token, score in enumerate(scores)
                ]
            ways = sorted(ways, reverse=True)[: 2 * size]
            for place, (_, text, total) in enumerate(ways):
                if text[-1] == END and place < size:
                    ended[group].append((total / length_penalty(length, 0.6), text))
            going = [(text, total) for _, text, total in ways if text[-1] != END][:size]
            for text, _ in going:
                taken[text[-1]] += 1
            best = sorted(ended[group], reverse=True)[:size]
            bound = max(total for _, total in going) / length_penalty(LIMIT, 0.6)
            done = len(best) == size and bound <= best[-1][0]
            if length == LIMIT and len(best) < size:
                ended[group] += [(total / length_penalty(length, 0.6), text) for text, total in going][
                    : size - len(best)
                ]
            beams[group] = [] if done else going
    found = {text: score for group in ended for score, text in sorted(group, reverse=True)[:size]}
    return sorted(found.items(), key=lambda pair: -pair[1])


@pytest.mark.parametrize(("groups", "size"), [(2, 2), (3, 1), (4, 2)])
@pytest.mark.parametrize("penalty", [0.5, 2.0])
def test_groups_search_as_in_the_paper(groups, size, penalty):
    model = built("transformer", seed=6)
    how = Search(1, END, beams=groups * size, groups=groups, diversity_penalty=penalty, limit=LIMIT)
    [found] = search(model, Sequences.of_ids([SOURCE]), how)
    ours = [((*one.tokens, *[END] * one.finished), one.score) for one in found]
    expected = plainly(model, groups, size, penalty)
    assert [text for text, _ in ours] == [text for text, _ in expected]
    assert [score for _, score in ours] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_groups_begin_with_other_words():
    model = built("transformer", seed=6)
    firsts = {}
    for groups in (1, 4):
        how = Search(1, END, beams=4, groups=groups, diversity_penalty=9.0 if groups > 1 else None, limit=LIMIT)
        firsts[groups] = {one.tokens[:1] for one in search(model, Sequences.of_ids([SOURCE]), how)[0]}
    assert len(firsts[4]) == 4 > len(firsts[1])
