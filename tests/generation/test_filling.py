"""Texts that take the rows of those that have their answers: every answer is that of the text alone."""

import threading
from functools import cache

import pytest
import torch
from generation.families import built
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regard import RegardError
from regard.generation.answers import searched
from regard.generation.engine import Engine, prepare
from regard.generation.memories import Memories
from regard.generation.search import Search, search, search_waiting
from regard.generation.waiting import Waiting
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig
from regard.native import library
from regard.sequences import Sequences

native = pytest.mark.skipif(library() is None, reason="the native kernels were not built")

WAYS = [
    {}, {"beams": 3, "length_penalty": 1.0}, {"beams": 2, "length_rule": "power", "early_stopping": True},
    {"min_tokens": 4}, {"beams": 2, "min_tokens": 3, "forbidden_first": (5,)}, {"prefix": (6, 7)},
    {"beams": 2, "prefix": (8,)}, {"beams": 4, "groups": 2}, {"beams": 3, "must": ((7, 4),)},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}, {"beams": 2, "must_not": ((5,),)},
    {"temperature": 1.5, "top_p": 0.9, "n_best": 3}, {"temperature": 2.0},
]  # fmt: skip


@cache
def prepared(family: str, precision: str) -> Engine:
    return prepare(built(family), precision, threads=1)


def waiting(texts: list[list[int]], numbers: list[int], room: int) -> Waiting:
    """As many as that at a time, in the order given: sources that follow may be longer than those that left."""
    return Waiting(
        lambda chosen: Sequences.of_ids([texts[place] for place in chosen]), range(len(texts)), numbers, lambda _: room
    )


@native
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(st.integers(3, 10), min_size=1, max_size=9), min_size=1, max_size=8),
    room=st.integers(1, 9),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 99),
    precision=st.sampled_from(["fp32", "int8"]),
)
def test_every_answer_is_that_of_the_text_alone(family, texts, room, way, seed, precision):
    engine = prepared(family, precision)
    options = way | ({"seed": seed} if "temperature" in way else {})
    how = Search(1 if family in ("transformer", "t5") else None, 2, extra_length=12, limit=40, **options)
    numbers = [3 * place + 1 for place in range(len(texts))]
    found = list(search_waiting(engine, waiting(texts, numbers, room), how))
    assert sorted(place for place, _ in found) == list(range(len(texts)))
    for place, together in found:
        [alone] = search(engine, Sequences.of_ids([texts[place]]), how, numbers=[numbers[place]])
        assert [one.tokens for one in together] == [one.tokens for one in alone]
        assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-4)


@native
def test_rows_are_filled_and_memory_stays_that_of_the_first(family, monkeypatch):
    engine, room, beams = prepared(family, "int8"), 4, 2
    texts = [[5, 6, 7, 8, 9][: 1 + place % 5] for place in range(60)]
    answers_source = family in ("transformer", "t5")
    how = Search(1 if answers_source else None, 2, beams, extra_length=2 if answers_source else 20, limit=12)
    rows, states, best, join = [], [], Engine.best, Engine.join

    def counted(self, tokens, state, *rest):
        rows.append(len(tokens))
        return best(self, tokens, state, *rest)

    def joined(self, source, state):
        states.append(join(self, source, state))
        return states[-1]

    monkeypatch.setattr(Engine, "best", counted)
    monkeypatch.setattr(Engine, "join", joined)
    found = dict(search_waiting(engine, waiting(texts, range(60), room), how))
    assert len({len(one[0].tokens) for one in found.values()}) > 1
    assert len(states) > 20
    assert max(rows) == room * beams
    assert sum(rows) > 0.9 * len(rows) * room * beams
    assert max(state.room.slots for state in states) <= room * beams
    assert all(state.room.length <= 64 for state in states)
    for state in states:
        assert state.memories is None or sum(map(len, state.memories.tensors.values())) <= sum(
            room * 5 * width for width in state.memories.widths.values()
        )


@native
def test_workers_share_the_texts_and_tell_what_went_wrong():
    engine = prepare(built("gpt"), "fp32", threads=2)
    texts = [[5 + place % 4] * (1 + place % 7) for place in range(30)]
    how = Search(None, 2, extra_length=15, limit=60)
    alone = [search(engine.with_threads(1), Sequences.of_ids([text]), how)[0] for text in texts]
    found = dict(searched(engine, texts, how, most=4))
    assert [[one.tokens for one in found[place]] for place in range(30)] == [[o.tokens for o in one] for one in alone]
    threads, running = torch.get_num_threads(), threading.active_count()  # other tests leave threads of theirs
    some = searched(engine, texts, how, most=4)
    next(some)
    some.close()
    assert torch.get_num_threads() == threads
    assert threading.active_count() <= running
    with pytest.raises(RegardError, match="leaves no room"):
        list(searched(engine, [*texts, [5] * 60], how))


def test_a_model_without_a_way_to_join_takes_texts_in_turn():
    torch.manual_seed(2)
    model = Seq2Seq(Seq2SeqConfig(vocab_size=11, target_vocab_size=11, hidden_size=8, embedding_size=8)).eval()
    texts = [[5, 6, 7, 2], [8, 2], [9, 10, 3, 4, 5, 2], [6, 2]]
    for beams in (1, 3):
        how = Search(1, 2, beams, extra_length=10)
        found = dict(search_waiting(model, waiting(texts, range(4), 2), how))
        alone = [search(model, Sequences.of_ids([text]), how)[0] for text in texts]
        assert [[one.tokens for one in found[place]] for place in range(4)] == [
            [o.tokens for o in one] for one in alone
        ]


def test_a_text_is_given_once_and_few_free_rows_wait_for_more():
    source = Sequences.of_ids([[5]])
    line = Waiting(lambda chosen: source, range(100), range(100), lambda _: 16)
    assert line.take().places == list(range(16))
    assert line.take(going=15) is None
    assert line.take(going=14).places == [16, 17]
    line.close()
    assert line.take() is None
    line, taken = Waiting(lambda chosen: source, range(2000), range(2000), lambda _: 3), []

    def work():
        while texts := line.take():
            taken.extend(texts.places)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(taken) == list(range(2000))


@settings(deadline=None)
@given(data=st.data(), block=st.sampled_from([1, 4]))
def test_memories_hold_what_each_family_was_given(data, block):
    """Texts of any length, in the places of any that have left."""
    memories, width = Memories({"memory.0": 3, "x": 5}, block), 3
    given_to: dict[int, torch.Tensor] = {}
    for _ in range(data.draw(st.integers(1, 6))):
        leaving = [family for family in given_to if data.draw(st.booleans())]
        for family in leaving:
            del given_to[family]
        living = torch.tensor(sorted(given_to), dtype=torch.int32).numpy()
        count = data.draw(st.integers(1, 3))
        free = [family for family in range(len(given_to) + count) if family not in given_to][:count]
        lengths = [data.draw(st.integers(1, 7)) for _ in free]
        texts = [torch.randn(length, width) for length in lengths]
        filled = [torch.cat([text, torch.zeros(-len(text) % block, width)]) for text in texts]
        found = {"memory.0": torch.cat(filled).flatten()}
        memories.put(torch.tensor(free, dtype=torch.int32).numpy(), lengths, found, living)
        given_to |= zip(free, texts, strict=True)
        for family, text in given_to.items():
            begin, end = memories.spans[family]
            assert begin % block == 0
            assert torch.equal(memories.tensors["memory.0"].view(-1, width)[begin:end], text)
