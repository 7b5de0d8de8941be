"""95 % intervals and robust means of success rates and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

Interval = tuple[float, float]
CONFIDENCE = 0.95

Strata = Sequence[np.ndarray]
"""Each task's values along the last axis; tasks may have different numbers of them."""


def wilson(successes: int, episodes: int) -> Interval:
    """Wilson's score interval of a success rate (Wilson 1927); it is right for rates of 0 and 1 too."""
    interval = stats.binomtest(successes, episodes).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)


def task_mean(strata: Strata) -> np.ndarray:
    """Mean over tasks of the mean of each: [...] from one [..., N] per task."""
    mean: np.ndarray = np.mean([values.mean(-1) for values in strata], 0)
    return mean


def interquartile_mean(strata: Strata) -> np.ndarray:
    """Mean of the middle half of all tasks' values together: [...] from one [..., N] per task.

    As rliable defines it: a quarter of the values, rounded down, is cut off at each end.
    """
    mean: np.ndarray = stats.trim_mean(np.concatenate(strata, -1), 0.25, axis=-1)
    return mean


def stratified_bootstrap(
    strata: Strata, statistic: Callable[[Strata], np.ndarray], resamples: int = 20_000, seed: int = 0
) -> Interval | None:
    """Percentile interval of a statistic over tasks (Agarwal et al. 2021, as in rliable).

    Each resample draws each task's values anew, with replacement. None where no task has two values:
    every resample would be the same.

    Args:
        strata: each task's values, [N].
        statistic: of the values of all tasks.
        resamples: number of resamples.
        seed: of the resampling, so that a report comes out the same every time.
    """
    if max(map(len, strata)) < 2:
        return None
    random = np.random.default_rng(seed)
    resampled = [values[random.integers(len(values), size=(resamples, len(values)))] for values in strata]
    low, high = np.percentile(statistic(resampled), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)
