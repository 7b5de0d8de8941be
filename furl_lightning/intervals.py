"""95 % intervals and robust means of success rates and returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

Interval = tuple[float, float]
LEVEL = 0.95


def wilson(successes: int, number: int) -> Interval:
    """Wilson's score interval of a success rate (Wilson 1927); it is right for rates at 0 and 1 too."""
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    rate = successes / number
    centre = (rate + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(rate * (1 - rate) / number + z * z / (4 * number * number))
    return max(0.0, centre - half), min(1.0, centre + half)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the last axis; as rliable, a quarter of the count, rounded down, is cut at each end."""
    ordered = np.sort(scores, axis=-1)
    number = scores.shape[-1]
    cut = int(0.25 * number)
    mean: np.ndarray = ordered[..., cut : number - cut].mean(-1)
    return mean


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the last axis."""
    out: np.ndarray = scores.mean(-1)
    return out


def stratified_bootstrap(
    strata: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int = 20_000,
    seed: int = 0,
) -> Interval | None:
    """Percentile interval of a statistic over all strata's values (Agarwal et al. 2021, as in rliable).

    None where no stratum has two values: there is nothing to draw anew from.

    Args:
        strata: each task's values; a resample draws each task's anew, with replacement.
        statistic: takes [..., N], all tasks' values side by side, to [...].
        resamples: how many.
        seed: of the resampling, so that a report is the same whenever it is made.
    """
    if max(map(len, strata)) < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = [values[random.integers(len(values), size=(resamples, len(values)))] for values in strata]
    low, high = np.percentile(statistic(np.concatenate(drawn, 1)), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
