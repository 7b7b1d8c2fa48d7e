"""Answers ranked by two models, and their scores."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import second_opinion
from second_opinion import main, ranked_answers, spoken

from regard.data.sources import Pair
from regard.training.graphones import JointModel

DICTIONARY = {
    "train": [Pair("cat", ("K AE1 T",)), Pair("can", ("K AE1 N", "K AH0 N")), Pair("tan", ("T AE1 N",))],
    "test": [Pair("nat", ("N AE1 T",))],
}


def test_both_models_are_heard():
    joint = JointModel([(pair.source, said) for pair in DICTIONARY["train"] for said in spoken(pair.targets)], order=2)
    answers = [{"K AE1 N": math.log(0.4), "K AE1 T": math.log(0.3), "K AE2 T": math.log(0.2)}]
    cat, can = joint.log_probabilities([("cat", ("K", "AE", "T")), ("cat", ("K", "AE", "N"))])
    [alone] = ranked_answers(answers, joint, ["cat"], 0)
    assert alone == pytest.approx({"K AE1 T": math.log(0.5), "K AE1 N": math.log(0.4)})
    [ranked] = ranked_answers(answers, joint, ["cat"], 0.25)
    wanted = {"K AE1 T": 0.75 * math.log(0.5) + 0.25 * cat, "K AE1 N": 0.75 * math.log(0.4) + 0.25 * can}
    assert ranked == pytest.approx(wanted)


def test_the_script_scores_both(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(second_opinion, "read_cmudict", lambda: DICTIONARY)
    monkeypatch.setattr(second_opinion, "best_answers", lambda *_: [{"N EY1 T": -0.6, "N AE1 T": -0.7}])
    monkeypatch.setattr(sys, "argv", ["second_opinion.py", "g2p", "--order", "2"])
    main()
    alone, both = capsys.readouterr().out.splitlines()
    assert "wer 100.00" in alone
    assert "wer 0.00" in both
