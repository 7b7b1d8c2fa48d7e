"""Energy and CO2 of a run, as `codecarbon` counts them, without the network.

Of the whole machine: processor, graphics cards, memory. Where the machine has counters (Intel's RAPL, Nvidia's NVML)
these are read; elsewhere it is an estimate from what such processors take at this load, and is called one. CO2 is the
energy times what a kilowatt hour emits in the country of the recipe, or the world's mean.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

_WORLD = "WLD"  # not a country: codecarbon then takes the world's mean
_EVERY = 15  # seconds between looks at the machine


@dataclass(frozen=True)
class Energy:
    """What was used since the watch began; None where it could not be told."""

    watt_hours: float | None = None
    co2_grams: float | None = None
    estimated: bool = True
    source: str = "not measured"


def grams_per_kwh(country: str = "") -> float | None:
    """What a kilowatt hour emits there, by codecarbon's table; without a country, or of one that it does not know, the
    world's mean. None where codecarbon is not installed.
    """
    logging.getLogger("codecarbon").disabled = True
    try:
        from codecarbon.core.emissions import Emissions
        from codecarbon.core.units import Energy as Amount
        from codecarbon.external.geography import GeoMetadata
        from codecarbon.input import DataSource

        where, table = GeoMetadata(country_iso_code=country or _WORLD), DataSource()  # type: ignore[no-untyped-call]
        return 1000 * float(Emissions(table).get_country_emissions(Amount.from_energy(kWh=1.0), where))
    except Exception:  # not installed, or other than it was
        return None


class EnergyWatch:
    """Looks at the machine's power from a thread of its own: starting it costs the run no time."""

    def __init__(self, country: str = "") -> None:
        self.country = country or _WORLD
        self._tracker: Any = None
        self._thread = threading.Thread(target=self._start, daemon=True)
        self._thread.start()

    def read(self) -> Energy:
        """Since the beginning; not measured where codecarbon is not installed, or has not begun yet."""
        if self._thread.is_alive() or self._tracker is None:
            return Energy()
        try:
            self._tracker.flush()
            found = self._tracker._prepare_emissions_data()  # the public way to it ends the tracker
            modes = [str(getattr(part, "_mode", type(part).__name__)) for part in self._tracker._hardware]
        except Exception:  # it is of other libraries' making, and no reason to end a run
            return Energy()
        counted = any("rapl" in mode or mode == "GPU" for mode in modes)
        where = "the world's mean" if self.country == _WORLD else self.country
        source = f"{'counters of the machine' if counted else 'estimated from the load'}; CO2: {where}"
        return Energy(1000 * found.energy_consumed, 1000 * found.emissions, not counted, source)

    def stop(self) -> None:
        if not self._thread.is_alive() and self._tracker is not None:
            self._tracker.stop()

    def _start(self) -> None:
        logging.getLogger("codecarbon").disabled = True
        try:
            from codecarbon import OfflineEmissionsTracker

            tracker = OfflineEmissionsTracker(
                country_iso_code=self.country,
                output_methods=[],
                allow_multiple_runs=True,
                measure_power_secs=_EVERY,
                tracking_mode="machine",
            )
            tracker.start()
        except Exception:  # not installed, or a machine that it cannot read
            return
        self._tracker = tracker
