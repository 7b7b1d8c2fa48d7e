"""The meter: what it counts is what happened, its totals survive a resumption, and it says what it did not measure."""

import sys
import time

import pytest
import torch
from training.told_events import RECIPE, measured

from regard.training.card import Facts, model_card
from regard.training.energy import Energy, EnergyWatch
from regard.training.events import Stepped, Validated, read_log
from regard.training.machine import peak_flops_per_second, peak_memory
from regard.training.meter import Meter
from regard.training.overfitting import verdict
from regard.training.recipe import parse_recipe
from regard.training.scoring import Result
from regard.training.told import of, told_cost, told_seen


def meter(recipe=RECIPE, workers=1):
    return Meter(recipe, None, torch.device("cpu"), workers, leads=True)


def stepped(step, loss=2.0):
    return Stepped(step, 0, loss, 0.1, tokens=100, seconds=0.0, flops=5e9)


def test_totals_and_windows_are_sums_of_the_steps():
    one = meter(workers=2)
    one.peak = 1e10
    for step in (1, 2, 3, 4):
        one.stepped(stepped(step, loss=float(step)), 0.5)
    first = one.measured(4, 10.0, ((1, 0.25), (0, 0.75)))
    assert (first.loss, first.tokens, first.flops, first.train_seconds) == (2.5, 400, 2e10, 2.0)
    assert (first.tokens_per_second, first.flops_per_second) == (200.0, 1e10)
    assert first.peak_flops_per_second == 2e10  # two workers
    assert first.share_of_peak == 0.5
    assert first.money == pytest.approx(0.1)  # ten seconds at 36 an hour
    assert (first.energy_wh, first.energy_source) == (None, "not measured")
    one.stepped(stepped(5, loss=7.0), 1.0)
    second = one.measured(5, 11.0, ((1, 1.0),))
    assert (second.loss, second.tokens, second.tokens_per_second) == (7.0, 500, 100.0)
    assert one.loss_since_validation() == pytest.approx((1 + 2 + 3 + 4 + 7) / 5)
    assert one.loss_since_validation() is None


def test_totals_go_on_over_a_resumption():
    one, two = meter(), meter()
    one.before = Energy(2.0, 1.0, True, "somewhere")
    for step in (1, 2, 3):
        one.stepped(stepped(step), 0.5)
    two.restore(one.facts())
    assert two.facts() == one.facts()
    again = two.measured(3, 5.0, ())
    assert (again.tokens, again.energy_wh, again.co2_grams) == (300, 2.0, 1.0)


def test_the_peak_is_measured_once_a_machine(monkeypatch):
    calls = []
    monkeypatch.setattr("regard.training.meter.peak_flops_per_second", lambda *given: calls.append(given) or 7.0)
    one, two = meter(), meter()
    one.begin()
    two.restore(one.facts())
    two.begin()
    assert len(calls) == 1
    other = meter(RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"precision": "bf16"})}))
    other.restore(one.facts())
    other.begin()
    assert [given[1] for given in calls] == [torch.float32, torch.bfloat16]


def test_a_peak_below_what_training_reaches_is_measured_again(monkeypatch):
    """It was measured while the machine had other work; a share of over 100 % would be none."""
    found = iter([1e9, 8e9])
    monkeypatch.setattr("regard.training.meter.peak_flops_per_second", lambda *given: next(found))
    one = meter()
    one.begin()
    for step in (1, 2):
        one.stepped(stepped(step), seconds=1.0)  # 5e9 a second: the second time below the peak
        assert one.measured(step, 1.0, ()).peak_flops_per_second == 8e9


def test_the_peak_is_what_a_matrix_product_reaches():
    found = peak_flops_per_second(torch.device("cpu"), torch.float32)
    matrix = torch.ones(1024, 1024)
    begun = time.perf_counter()
    for _ in range(3):
        matrix @ matrix
    assert found > 0.3 * 3 * 2 * 1024**3 / (time.perf_counter() - begun)
    assert found < 1e14


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(before // 4 + 50_000_000 // 4)
    assert peak_memory(torch.device("cpu")) >= before + 40_000_000
    del held


def test_without_codecarbon_energy_is_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    watch = EnergyWatch()
    watch._thread.join()
    assert watch.read() == Energy()
    watch.stop()


def test_with_codecarbon_energy_is_told_and_called_an_estimate():
    pytest.importorskip("codecarbon")
    watch = EnergyWatch("FRA")
    watch._thread.join()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        torch.ones(300, 300) @ torch.ones(300, 300)
    found = watch.read()
    watch.stop()
    assert 0 < found.watt_hours < 10
    assert 0 < found.co2_grams < 10
    # A kilowatt hour emits less in France than in the mean of the world, 475 g.
    assert found.co2_grams / found.watt_hours < 0.2
    assert "FRA" in found.source
    assert found.estimated == ("estimated" in found.source)


@pytest.mark.parametrize("country", ["Fr", "France", "fra", "F1A"])
def test_a_country_is_three_letters(country):
    from regard import RegardError

    with pytest.raises(RegardError, match=r"cost\.country"):
        parse_recipe('name = "x"\n[data]\nsource = "cmudict"\n', "x.toml", [f'cost.country="{country}"'])


# --- over-fitting -----------------------------------------------------------------------------------------------------


def history(*losses):
    rows = enumerate(losses, start=1)
    return [Validated(10 * number, loss, {}, False, 0.0, 0.0, learnt) for number, (learnt, loss) in rows]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([], ""),
        ([(3.0, 3.1)], "validation loss 0.100 above training loss; too early"),
        ([(3.0, 2.8), (2.5, 2.4), (2.0, 2.0)], "validation loss 0.000 above training loss; no over-fitting: the val"),
        ([(3.0, 2.8), (2.5, 2.4), (2.0, 2.6)], "over-fitting since step 20: validation loss went from 2.400 up to 2.6"),
        ([(3.0, 2.8), (2.5, 2.4), (2.6, 2.6)], "has risen since step 20, and training loss has not fallen: unstable"),
        ([(3.0, 2.8), (2.5, 2.4), (2.0, 2.4)], "validation loss no longer does: at its limit"),
        ([(2.5, 2.4), (2.5, 2.4), (2.5, 2.4)], "no over-fitting: both losses have come to rest"),
    ],
)
def test_what_the_losses_say(losses, words):
    said = verdict(history(*losses))
    assert words in said
    assert bool(said) == bool(words)


# --- in words ---------------------------------------------------------------------------------------------------------


def test_the_cost_in_words():
    said = told_cost(measured())
    assert "Speed: 200 tokens a second, 10 GFLOP/s (25% of the 40 GFLOP/s of a matrix product here)" in said
    assert "Memory: at most 5 MB." in said
    assert "Energy: not measured." in said
    assert "Money" not in said
    energy = measured(energy_wh=1.5, co2_grams=0.7, energy_source="estimated from the load; CO2: FRA", money=2.5)
    assert "Energy: about 1.50 Wh, 0.70 g of CO2 (estimated from the load; CO2: FRA)." in told_cost(energy)
    assert "Money: 2.50 EUR." in told_cost(energy)
    assert told_cost(None) == "Energy: not measured."
    assert "FLOP" not in told_cost(measured(flops=0.0))  # a system whose operations nobody counted


def test_what_was_seen_how_often():
    assert told_seen(((1, 0.25), (0, 0.75))) == "25% seen once, 75% seen never"
    assert told_seen(((3, 1.0),)) == "100% seen 3 times"


def test_numbers_with_prefixes():
    assert [of(value, "B") for value in (12, 1500, 2.5e9, 3e15)] == ["12 B", "1.5 kB", "2.5 GB", "3 PB"]


def test_the_model_card_tells_the_cost_and_the_verdict():
    from regard.models.transformer import Transformer, TransformerConfig

    model = Transformer(TransformerConfig(vocab_size=7, d_model=8, attention_heads=2, ffn_dim=4))
    told = history((3.0, 2.8), (2.5, 2.4), (2.0, 2.6))
    told[-1] = Validated(**{**told[-1].__dict__, "verdict": verdict(told)})
    facts = Facts(RECIPE, Result({"bleu": 1.0}, 1.0), "test", 30, 1.0, 60.0, 60.0, {}, told, measured=measured())
    card = model_card(model, facts, "float32")
    assert "Speed: 200 tokens a second" in card
    assert "Over-fitting: over-fitting since step 20" in card


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_of_an_earlier_version_and_a_half_written_line_are_read(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"event": "validated", "step": 5, "loss": 1.0, "scores": {}, "best": true, "seconds": 1, "cpu_seconds": 1}\n'
        '{"event": "measured", "step": 5'
    )
    [event] = read_log(tmp_path)
    assert (event.step, event.train_loss, event.verdict) == (5, None, "")


def test_a_log_that_is_none_is_told(tmp_path):
    from regard import RegardError

    with pytest.raises(RegardError, match="holds no run"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"event": "validated"}\nno json\n')
    with pytest.raises(RegardError, match=r"log\.jsonl, line 1: not an event"):
        read_log(tmp_path)
