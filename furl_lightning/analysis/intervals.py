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


Strata = Sequence[np.ndarray]
"""Each task's values along the last axis; tasks may have different numbers of them."""


def task_mean(strata: Strata) -> np.ndarray:
    """Mean over tasks of the mean of each: [...] from one [..., N] a task."""
    out: np.ndarray = np.mean([values.mean(-1) for values in strata], 0)
    return out


def interquartile_mean(strata: Strata) -> np.ndarray:
    """Mean of the middle half of all tasks' values together: [...] from one [..., N] a task.

    As rliable has it: a quarter of the count, rounded down, is cut at each end.
    """
    ordered = np.sort(np.concatenate(strata, -1), axis=-1)
    number = ordered.shape[-1]
    cut = int(0.25 * number)
    out: np.ndarray = ordered[..., cut : number - cut].mean(-1)
    return out


def stratified_bootstrap(
    strata: Strata, statistic: Callable[[Strata], np.ndarray], resamples: int = 20_000, seed: int = 0
) -> Interval | None:
    """Percentile interval of a statistic over tasks (Agarwal et al. 2021, as in rliable).

    Each resample draws each task's values anew, with replacement. None where no task has two values:
    there is nothing to draw anew from.

    Args:
        strata: each task's values, [N].
        statistic: of the values of all tasks.
        resamples: how many.
        seed: of the resampling, so that a report is the same whenever it is made.
    """
    if max(map(len, strata)) < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = [values[random.integers(len(values), size=(resamples, len(values)))] for values in strata]
    low, high = np.percentile(statistic(drawn), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
