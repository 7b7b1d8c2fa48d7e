"""Learning rates: equation 3 of the paper, and the straight line."""

import pytest

from regard.training.recipe import Training
from regard.training.schedules import learning_rate, peak_rate, slanted_triangular

PAPER = Training(warmup_steps=4000)


@pytest.mark.parametrize("step", [1, 2, 100, 3999, 4000, 4001, 16_000, 100_000])
def test_the_default_is_equation_3_of_the_paper(step):
    expected = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
    assert learning_rate(step, PAPER, 512) == pytest.approx(expected, rel=1e-12)


def test_the_peak_stands_at_the_end_of_the_warm_up():
    assert peak_rate(PAPER, 512) == pytest.approx(6.987712e-4, rel=1e-6)
    assert max(range(1, 20_000), key=lambda step: learning_rate(step, PAPER, 512)) == 4000


def test_a_recipe_may_name_its_peak():
    training = Training(learning_rate=0.003, warmup_steps=10)
    assert learning_rate(5, training, 512) == pytest.approx(0.0015)
    assert learning_rate(10, training, 512) == pytest.approx(0.003)
    assert learning_rate(40, training, 512) == pytest.approx(0.0015)


def test_a_straight_line_ends_at_zero_after_the_last_step():
    training = Training(schedule="linear", learning_rate=1.0, warmup_steps=4, max_steps=8)
    rates = [learning_rate(step, training, 512) for step in range(1, 10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_a_restart_begins_the_schedule_anew():
    once = Training(schedule="linear", learning_rate=1.0, warmup_steps=4, max_steps=8)
    twice = once.model_copy(update={"restarts": (8,), "max_steps": 20})
    longer = once.model_copy(update={"max_steps": 12})
    rates = [learning_rate(step, twice, 512) for step in range(1, 21)]
    assert rates[:8] == [learning_rate(step, once, 512) for step in range(1, 9)]
    assert rates[8:] == [learning_rate(step, longer, 512) for step in range(1, 13)]


@pytest.mark.parametrize("restarts", [(0,), (5, 5), (7, 3), (20,), (30,)])
def test_restarts_out_of_order_are_refused(restarts):
    with pytest.raises(ValueError, match="restarts rise and end before max_steps"):
        Training(max_steps=20, restarts=restarts)


def test_slanted_triangular_is_equation_3_of_ulmfit():
    """T = 100, cut_frac = 0.1, ratio = 32: up to step 10, then down to a 32nd (figure 2 of the paper)."""
    rates = [slanted_triangular(step, 100) for step in range(101)]
    assert max(range(101), key=rates.__getitem__) == 10
    assert rates[10] == 1
    assert rates[0] == pytest.approx(1 / 32)
    assert rates[100] == pytest.approx(1 / 32)
    assert rates[5] == pytest.approx((1 + 0.5 * 31) / 32)
    assert rates[55] == pytest.approx((1 + (1 - 45 / 90) * 31) / 32)


@pytest.mark.parametrize("steps", [1, 7, 15, 1000])
def test_slanted_triangular_stays_between_a_share_and_the_peak(steps):
    rates = [slanted_triangular(step, steps, cut_frac=0.25, ratio=8) for step in range(steps + 1)]
    assert all(1 / 8 <= rate <= 1 for rate in rates)
    assert 1 in rates


def test_a_cosine_is_at_half_of_the_peak_half_way_and_ends_near_zero():
    training = Training(schedule="cosine", learning_rate=2.0, warmup_steps=1, max_steps=100)
    rates = [learning_rate(step, training, 512) for step in range(1, 101)]
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx(1.0)
    assert rates[25] == pytest.approx(1 + 2**-0.5)
    assert 0 < rates[-1] < 0.001
    assert rates == sorted(rates, reverse=True)


def test_halving_is_that_of_seq2seq():
    """Sutskever et al. 2014: a rate of 0.7 for five epochs, then halved every half epoch; here an epoch is 10 steps."""
    training = Training(
        schedule="halving", learning_rate=0.7, warmup_steps=1, halve_after=50, halve_every=5, max_steps=75
    )
    rates = [learning_rate(step, training, 512) for step in range(1, 76)]
    assert rates == pytest.approx([0.7] * 50 + [0.7 * 0.5**number for number in (1, 2, 3, 4, 5) for _ in range(5)])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule": "halving"}, "needs halve_every"),
        ({"optimizer": "sgd"}, "sgd needs a learning_rate"),
        ({"optimizer": "adadelta"}, "adadelta needs a learning_rate"),
        ({"carry_state": True, "micro_batches": 2}, "goes with micro_batches 1 only"),
        ({"optimizer": "asgd", "ema_decay": 0.9}, "goes with ema_decay 0 only"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Training(**fields)
