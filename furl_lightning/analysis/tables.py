"""Tables of a report and of a probe, and the same numbers in full as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from furl_lightning.analysis.goal_distance import MANNERS, GoalDistance
from furl_lightning.analysis.intervals import Interval
from furl_lightning.analysis.probe import MEASURES, mean
from furl_lightning.analysis.report import (
    LEVELS,
    PUBLISHED_DENSE,
    PUBLISHED_STEPS,
    Aggregate,
    Method,
    Totals,
    deviation,
    published,
)
from furl_lightning.tasks import TASK_SETS

Measures = Mapping[str, dict[str, float]]
"""A reward's measures, by task and :data:`~furl_lightning.analysis.probe.MEASURES`."""


class Table(NamedTuple):
    """What is shown; ``ruled``: above the last so many rows stands a rule."""

    header: list[str]
    rows: list[list[str]]
    ruled: int = 0

    def markdown(self) -> str:
        """The table as Markdown has it, without the rule."""
        return "\n".join(f"| {' | '.join(row)} |" for row in [self.header, ["---"] * len(self.header), *self.rows])


# -- of a report


def final_table(methods: Sequence[Method], tasks: Sequence[str], totals: Totals) -> Table:
    """Task x method as in the paper, the published means beside ours; all methods have one goal mode."""
    others = published(methods)
    theirs = [_percent(rate) for rate in others.values()]
    blank = ["" for _ in others]
    rows = [[task, *(_rate(method.final(task)) for method in methods), *blank] for task in tasks]
    means = [totals[method] for method in methods]
    ours = ["-" if total is None else _percent(total.mean) for total in means]
    if set(tasks) == set(TASK_SETS["mt10"]):
        last = [["mean", *ours, *theirs]]
    elif others:
        last = [["mean", *ours, *blank], ["mean over MT10", *("" for _ in ours), *theirs]]
    else:
        last = [["mean", *ours]]
    header = ["task", *(method.name for method in methods), *(f"{name} (published)" for name in others)]
    return Table(header, rows + last, len(last))


def aggregate_table(methods: Sequence[Method], totals: Totals) -> Table:
    """Mean and interquartile mean with intervals."""
    rows = []
    for method in methods:
        total = totals[method]
        cells = ["-", "-"]
        if total is not None:
            cells = [
                _with_interval(total.mean, total.mean_95),
                _with_interval(total.interquartile_mean, total.interquartile_mean_95),
            ]
        rows.append([method.name, str(len(method.seeds())), *cells])
    return Table(["method", "seeds", "mean", "interquartile mean"], rows)


def efficiency_table(methods: Sequence[Method], tasks: Sequence[str]) -> Table:
    """Steps to the first evaluation at each of :data:`LEVELS`, per task and for the mean over tasks."""
    header = ["task", *(f"{method.name}: {level:.0%}" for method in methods for level in LEVELS)]
    rows = []
    for name, group in _with_mean(tasks):
        steps = [method.curve(group).reaches(level) for method in methods for level in LEVELS]
        rows.append([name, *("-" if number is None else f"{number:,}" for number in steps)])
    return Table(header, rows, 1)


def clock_table(methods: Sequence[Method]) -> Table:
    """Hours, and environment steps of all agents together per second."""
    rows = []
    for method in methods:
        seconds = sum(run.seconds for run in method.runs)
        steps = sum(run.reached * len(run.agents) for run in method.runs)
        speed = f"{steps / seconds:.1f}" if seconds else "-"
        rows.append([method.name, str(len(method.runs)), f"{steps:,}", f"{seconds / 3600:.2f}", speed])
    return Table(["method", "runs", "environment steps", "hours", "steps per second"], rows)


def machine_table(methods: Sequence[Method]) -> Table:
    """What the methods' runs were made with: a row for each library, for the device and the renderer."""
    made_with = [method.made_with() for method in methods]
    names = dict.fromkeys(name for values in made_with for name in values)
    rows = [[name, *(", ".join(values.get(name, ["-"])) for values in made_with)] for name in names]
    return Table(["made with", *(method.name for method in methods)], rows)


def dense_table() -> Table:
    """Published success with dense reward."""
    header = ["method", *(f"{steps:,} steps" for steps in PUBLISHED_STEPS)]
    return Table(header, [[name, *map(_percent, rates)] for name, rates in PUBLISHED_DENSE.items()])


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _rate(scores: np.ndarray) -> str:
    if not len(scores):
        return "-"
    return _percent(scores.mean()) + (f" ± {_percent(deviation(scores))}" if len(scores) > 1 else "")


def _with_interval(value: float, interval: Interval | None) -> str:
    return _percent(value) + (f" ({_percent(interval[0])} - {_percent(interval[1])})" if interval else "")


def _with_mean(tasks: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """What there is a row for: each task, and the mean over all."""
    return [*((task, [task]) for task in tasks), ("mean", tasks)]


def write_report(folder: Path, methods: Sequence[Method], tasks: Sequence[str], totals: Totals) -> None:
    """All numbers of a report in full, as table.csv, aggregate.csv and curves.csv."""
    _write(
        folder / "table.csv",
        ["goal", "method", "task", "seeds", "success", "deviation"],
        (_final_row(method, task) for method in methods for task in tasks),
    )
    _write(
        folder / "aggregate.csv",
        ["goal", "method", "mean", "mean_low", "mean_high", "iqm", "iqm_low", "iqm_high"]
        + [f"steps_to_{level:g}" for level in LEVELS]
        + ["hours"],
        (_aggregate_row(method, tasks, totals[method]) for method in methods),
    )
    _write(
        folder / "curves.csv",
        ["goal", "method", "task", "env_steps", "success", "low", "high", "training"],
        (
            [method.goal, method.name, name, *point]
            for method in methods
            for name, group in _with_mean(tasks)
            for point in _points(method, group)
        ),
    )


def _final_row(method: Method, task: str) -> list[Any]:
    scores = method.final(task)
    mean = float(scores.mean()) if len(scores) else math.nan
    return [method.goal, method.name, task, len(scores), mean, deviation(scores)]


def _aggregate_row(method: Method, tasks: Sequence[str], total: Aggregate | None) -> list[Any]:
    row: list[Any] = [method.goal, method.name]
    if total is None:
        row += [math.nan] * 6
    else:
        row += [total.mean, *(total.mean_95 or ("", ""))]
        row += [total.interquartile_mean, *(total.interquartile_mean_95 or ("", ""))]
    curve = method.curve(tasks)
    return [*row, *(curve.reaches(level) or "" for level in LEVELS), sum(run.seconds for run in method.runs) / 3600]


def _points(method: Method, tasks: Sequence[str]) -> Iterable[list[Any]]:
    """Of a curve: environment steps, success, its interval, and success of the training episodes."""
    curve, training = method.curve(tasks), method.curve(tasks, training=True)
    shares = dict(zip(training.steps, training.mean, strict=True))
    for steps, success, interval in zip(curve.steps, curve.mean, curve.band, strict=True):
        yield [steps, success, *(interval or ("", "")), shares.get(steps, "")]


# -- of a probe


def measures_table(measures: Measures) -> Table:
    """A row for each task and one for the mean over the tasks that have the measure."""
    rows = [[task, *(_measure(values[name]) for name in MEASURES)] for task, values in measures.items()]
    means = [_measure(mean([values[name] for values in measures.values()])) for name in MEASURES]
    return Table(["task", *MEASURES], [*rows, ["all", *means]], 1)


def goal_distance_table(columns: Mapping[str, GoalDistance]) -> Table:
    """Noisy and random episodes side by side: a row for each task, and one for the mean over those with the figure.

    Args:
        columns: by the name that stands above; all of the same tasks.
    """
    tasks = list(next(iter(columns.values())))
    pairs = [(distance, manner) for distance in columns.values() for manner in MANNERS]
    rows = [[task, *(_measure(distance[task][manner]) for distance, manner in pairs)] for task in tasks]
    means = [_measure(mean([values[manner] for values in distance.values()])) for distance, manner in pairs]
    header = ["task", *(f"{name}, {manner}" for name in columns for manner in MANNERS)]
    return Table(header, [*rows, ["all", *means]], 1)


def _measure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def write_probe(path: Path, rewards: Mapping[str, Measures]) -> None:
    """The measures of each reward in full, as CSV."""
    _write(
        path,
        ["reward", "task", *MEASURES],
        (
            [kind, task, *(values[name] for name in MEASURES)]
            for kind, measures in rewards.items()
            for task, values in measures.items()
        ),
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
