"""A recipe and a measurement for the tests of what is told of a run."""

from regard.training.events import Measured
from regard.training.recipe import parse_recipe

RECIPE = parse_recipe(
    'name = "tiny"\n[data]\nsource = "cmudict"\n[cost]\nenergy = false\nprice_per_hour = 36.0\n', "tiny.toml", []
)


def measured(**changes):
    given = {
        "step": 4, "loss": 2.0, "tokens": 400, "flops": 2e10, "train_seconds": 2.0, "seconds": 3.0,
        "tokens_per_second": 200.0, "flops_per_second": 1e10, "peak_flops_per_second": 4e10, "peak_memory": 5_000_000,
        "energy_wh": None, "co2_grams": None, "energy_estimated": True, "energy_source": "not measured", "money": None,
        "currency": "EUR", "seen": ((1, 1.0),),
    }  # fmt: skip
    return Measured(**{**given, **changes})
