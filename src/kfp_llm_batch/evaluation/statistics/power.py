"""What a comparison of so many rows can find at all, and how many rows a decision takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy

POWER = 0.8
"""How often a loss is to be found."""
_MOST_ROWS = 10_000_000
_TAIL = 1e-9


def power_for_rates(loss: float, *, gains: int, units: int, margin: float, alpha: float) -> float:
    """How often a true loss would fail the gate, by the exact test that the gate uses.

    Args:
        loss: The assumed true loss, as a share of all units.
        gains: Observed units that went from wrong to right: churn that no loss explains.
        units: All of them.
        margin: The loss that must be exceeded.
        alpha: Level of the one-sided test.
    """
    churn = (gains + 0.5) / (units + 1)
    changed = min(1.0, 2 * churn + loss)
    losing = min(1.0, (churn + loss) / changed)
    spread = math.sqrt(units * changed * (1 - changed)) + 1
    first, last = max(1, int(units * changed - 7 * spread)), min(units, int(units * changed + 7 * spread) + 1)
    changes = np.arange(first, last + 1)
    # The fewest losses among so many changes that the exact test takes for no chance, and that exceed the margin.
    significant = scipy.stats.binom.isf(alpha, changes, 0.5) + 1
    exceeding = np.floor((changes + margin * units) / 2 + _TAIL) + 1
    needed = np.maximum(significant, exceeding)
    chances = scipy.stats.binom.pmf(changes, units, changed) * scipy.stats.binom.sf(needed - 1, changes, losing)
    return float(min(1.0, chances.sum()))


def power_for_means(loss: float, *, deviation: float, units: int, margin: float, alpha: float) -> float:
    """The same for a mean of differences with a standard deviation, by the normal distribution."""
    if not deviation > 0:
        return float(loss > margin)
    # To fail, the loss must be significant and exceed the margin: the stricter of both sets the level.
    level = min(alpha, float(scipy.stats.norm.sf(margin * math.sqrt(units) / deviation)))
    if level < _TAIL**2:
        return float(scipy.stats.norm.sf((margin - loss) * math.sqrt(units) / deviation))
    from statsmodels.stats.power import NormalIndPower

    power = NormalIndPower(ddof=0).power(loss / deviation, units, level, ratio=0, alternative="larger")
    return float(power)


def detectable_loss(power_of: Callable[[float], float], margin: float) -> float | None:
    """The smallest true loss that would fail the gate in 80 of 100 runs; None if none up to 1 would."""
    if power_of(1.0) < POWER:
        return None
    low = max(margin, _TAIL)
    if power_of(low) >= POWER:
        return low
    return float(scipy.optimize.brentq(lambda loss: power_of(loss) - POWER, low, 1.0, xtol=1e-5))


def units_to_decide(loss: float, *, deviation: float, margin: float, alpha: float) -> int | None:
    """How many units would tell in 80 of 100 runs on which side of the margin the loss is, if it is as large as now.

    None if no number that anyone has would: the loss is the margin, all but exactly.
    """
    distance = abs(margin - loss)
    if not distance > 0 or not math.isfinite(deviation):
        return None
    deviates = float(scipy.stats.norm.isf(alpha) + scipy.stats.norm.isf(1 - POWER))
    units = math.ceil((deviates * deviation / distance) ** 2)
    return units if units <= _MOST_ROWS else None
