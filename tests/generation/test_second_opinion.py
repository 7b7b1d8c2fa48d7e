"""Answers that two models rank, kept in a folder and read again."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import regard
from regard.errors import RegardError
from regard.generation.graphones import JointModel
from regard.generation.kneser_ney import KneserNey
from regard.generation.second_opinion import FILE, SecondOpinion
from regard.generation.settings import Hypothesis
from regard.modalities.text import symbol_codec

PAIRS = [("cat", "K AE1 T"), ("can", "K AE1 N"), ("can", "K AH0 N"), ("tan", "T AE1 N")]
CODEC = symbol_codec([source for source, _ in PAIRS], [*(target for _, target in PAIRS), "AE2"])
JOINT = JointModel.learn([("cat", ("K", "AE", "T")), ("can", ("K", "AE", "N")), ("can", ("K", "AH", "N")),
                          ("tan", ("T", "AE", "N"))], order=2)  # fmt: skip


def hypotheses(**answers: float) -> list[Hypothesis]:
    """`K_AE1_T=0.3`: an answer and its probability."""
    return [
        Hypothesis(tuple(CODEC.target.encode(text.replace("_", " "))[:-1]), math.log(chance), math.log(chance))
        for text, chance in answers.items()
    ]


def ranked(opinion: SecondOpinion, word: str, found: list[Hypothesis]) -> dict[str, float]:
    [answers] = opinion.rank(CODEC, [CODEC.source.encode(word)], [found])
    return {CODEC.target.decode(one.tokens): one.score for one in answers}


def test_both_models_are_heard():
    opinion = SecondOpinion.learn(PAIRS, CODEC, order=2, share=0.25)
    found = hypotheses(K_AE1_N=0.4, K_AE1_T=0.3, K_AE2_T=0.2)
    cat, can = JOINT.log_probabilities([("cat", ("K", "AE", "T")), ("cat", ("K", "AE", "N"))])
    both = 0.75 * math.log(0.5) + 0.25 * cat
    assert ranked(opinion, "cat", found) == pytest.approx(
        {"K AE1 T": both, "K AE2 T": both + math.log(0.2 / 0.3), "K AE1 N": 0.75 * math.log(0.4) + 0.25 * can}
    )


def test_a_share_of_nothing_adds_up_what_differs_in_stress():
    opinion = SecondOpinion.learn(PAIRS, CODEC, order=2, share=0)
    found = hypotheses(K_AE1_N=0.4, K_AE1_T=0.3, K_AE2_T=0.2)
    scores = ranked(opinion, "cat", found)
    assert list(scores) == ["K AE1 T", "K AE1 N", "K AE2 T"]
    assert scores["K AE1 T"] == pytest.approx(math.log(0.5))


def test_what_cannot_be_cut_comes_last():
    opinion = SecondOpinion.learn(PAIRS, CODEC, order=2, share=0.5)
    scores = ranked(opinion, "a", hypotheses(K_AE1_N_T=0.9, AE1=0.1))
    assert list(scores) == ["AE1", "K AE1 N T"]
    assert scores["K AE1 N T"] == -math.inf


def test_it_comes_back_from_its_folder(tmp_path: Path):
    opinion = SecondOpinion.learn(PAIRS, CODEC, order=3, share=0.3)
    opinion.save(tmp_path)
    again = SecondOpinion.load(tmp_path)
    assert again is not None
    found = hypotheses(K_AE1_N=0.4, K_AE1_T=0.3)
    assert ranked(again, "cat", found) == ranked(opinion, "cat", found)
    assert again.share == 0.3
    assert SecondOpinion.load(tmp_path / "elsewhere") is None


def test_a_damaged_file_is_told(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"\x10" + bytes(30))
    with pytest.raises(RegardError, match=r"second_opinion.safetensors is damaged"):
        SecondOpinion.load(tmp_path)


def test_n_grams_survive_their_small_arrays():
    random = np.random.default_rng(0)
    learnt = [random.integers(5, 400, random.integers(1, 9)).tolist() for _ in range(300)]
    model = KneserNey.learn(learnt, 4)
    arrays = model.to_arrays()
    assert {arrays["1.counts"].dtype, arrays["3.counts"].dtype} == {np.dtype(np.uint8)}
    asked = [[*one, 401] for one in learnt[:50]]
    assert KneserNey.from_arrays(arrays).log_probabilities(asked) == model.log_probabilities(asked)


def test_the_best_of_all_beams_is_among_the_n_best():
    """`n_best` is taken after ranking, and greedy answers are the model's own."""
    model = regard.load("g2p")
    words = ["colonel", "gauge", "attention"]
    every, one = model.hypotheses(words, beams=4), model.hypotheses(words, beams=4, n_best=1)
    assert [found[:1] for found in every] == one
    assert all(len(found) == 4 for found in every)
    greedy = model.translate(words)
    model.opinion = None
    assert model.translate(words) == greedy
    alone = model.hypotheses(words, beams=4)
    for found, own in zip(every, alone, strict=True):
        assert {replace(one, score=0.0) for one in found} == {replace(one, score=0.0) for one in own}
