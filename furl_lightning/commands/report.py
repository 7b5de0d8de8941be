"""``furl-report``: runs side by side as tables and curves, in HTML, CSV and PNG."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from furl_lightning.analysis.html_page import Page
from furl_lightning.analysis.intervals import Interval
from furl_lightning.analysis.report import (
    LEVELS,
    PUBLISHED,
    PUBLISHED_DENSE,
    PUBLISHED_STEPS,
    Aggregate,
    Method,
    Mixed,
    aggregate,
    deviation,
    group,
    missing,
    tasks_of,
)
from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.runs.read import NoRun, Run, labels, read
from furl_lightning.tasks import TASK_SETS, UnknownTask, task_names
from furl_lightning.utils.errors import BadInput

ABOUT_TABLE = (
    "Success in % at the last step of an episode, at each run's last evaluation: mean over seeds ± standard deviation "
    "(n - 1). Columns marked 'published' are not ours: mean over MT10, 1,000,000 steps, 5 seeds, another VLM (LIV)."
)
ABOUT_AGGREGATE = (
    "Over all tasks and seeds at the last evaluation; in brackets 95 % intervals by stratified bootstrap, seeds drawn "
    "anew within each task (the definitions of rliable, Agarwal et al. 2021)."
)
ABOUT_CURVES = (
    "Mean success over seeds at the evaluations that all of them have; band: 95 % percentile bootstrap over seeds; "
    "thin: each seed. With several tasks the last panel is the mean over tasks."
)
ABOUT_TRAINING = (
    "The same of the training episodes since the evaluation before: more episodes than an evaluation has, of policies "
    "that explore; where there is a relay, the SAC agent acts in a part of them."
)
ABOUT_EFFICIENCY = "Environment steps per agent at the first evaluation whose mean over seeds is at least so high."


def report(argv: Sequence[str] | None = None) -> int:
    """``furl-report``; returns the exit status."""
    return answer("furl-report", _report, argv)


def _report(argv: list[str]) -> int:
    flags = parser("furl-report", "Put runs of furl-fit side by side.")
    flags.add_argument("runs", nargs="+", type=str, help="Folders of runs, finished or not.")
    flags.add_argument("--out", type=str, default="report", help="Folder for index.html, the tables and the figures.")
    flags.add_argument("--tasks", nargs="+", type=str, default=None, help="Compare these tasks only.")
    flags.add_argument(
        "--label", nargs="+", type=str, default=[], help="NAME=PATTERN: what to call runs whose folders' names match."
    )
    given = parse(flags, argv)
    out = Path(given.out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "table.csv").exists())):
        raise BadInput(f"{out} holds something else than a report; choose another --out")
    try:
        tasks = task_names(names(given.tasks)) if given.tasks is not None else None
    except UnknownTask as error:
        raise BadInput(str(error)) from error

    runs, absent = _read([Path(folder) for folder in given.runs])
    try:
        methods = group(runs, _named(runs, given.label), tasks)
    except Mixed as error:
        raise BadInput(str(error)) from error
    tasks = tasks_of(methods) if tasks is None else tasks
    if not any(method.final(task).size for method in methods for task in tasks):
        asked = f" of {', '.join(tasks)}" if given.tasks else ""
        raise BadInput(
            f"no evaluation{asked} in {', '.join(str(run.folder) for run in runs)} yet; furl-fit evaluates every "
            "data.eval_every steps and at its end"
        )
    write(out, methods, tasks, absent + missing(methods, tasks))
    return 0


def _read(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs, and what is wrong with the folders that hold none.

    Raises:
        BadInput: none of them holds a run.
    """
    runs, absent = [], []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        shown = next(path for path in folders if path.resolve() == folder)
        if shown.is_file():
            continue  # a shell's runs/* also matches files
        try:
            runs.append(read(shown))
        except NoRun as error:
            absent.append(str(error))
    if not runs:
        raise BadInput(absent[0] if len(absent) == 1 else f"no run in any of {len(absent)} folders: {absent[0]}; ...")
    return runs, absent


def _named(runs: Sequence[Run], given: Sequence[str]) -> list[str]:
    """Each run's name: the first label whose pattern its folder's name matches, or what its settings say.

    Raises:
        BadInput: a label without a pattern, or one that matches nothing.
    """
    patterns = []
    for label in given:
        name, equals, pattern = label.partition("=")
        if not (name and equals and pattern):
            raise BadInput(f"--label must be NAME=PATTERN such as 'SAC=sac-*', not '{label}'")
        if not any(fnmatch(run.folder.resolve().name, pattern) for run in runs):
            found = ", ".join(sorted(run.folder.resolve().name for run in runs))
            raise BadInput(f"--label {label} matches no run; their names are {found}")
        patterns.append((name, pattern))
    own = [
        next((name for name, pattern in patterns if fnmatch(run.folder.resolve().name, pattern)), None) for run in runs
    ]
    derived = iter(labels([run for run, name in zip(runs, own, strict=True) if name is None]))
    return [next(derived) if name is None else name for name in own]


def write(out: Path, methods: Sequence[Method], tasks: Sequence[str], notes: Sequence[str]) -> None:
    """Write the report's files, and print its tables."""
    out.mkdir(parents=True, exist_ok=True)
    page = Page("furl-report")
    page.text(f"{sum(len(found.runs) for found in methods)} runs of {', '.join(found.name for found in methods)}.")
    if notes:
        page.heading("What is missing")
        page.items(notes)
    totals = {(found.name, found.goal): aggregate(found, tasks) for found in methods}
    for goal in dict.fromkeys(found.goal for found in methods):
        rivals = [found for found in methods if found.goal == goal]
        header, rows = final_table(rivals, tasks, totals)
        page.heading(f"Success, {goal} goals")
        page.table(ABOUT_TABLE, header, rows, ruled=len(rows) - len(tasks))
        print(_text(f"success in % at the last evaluation, {goal} goals", header, rows))
        header, rows = aggregate_table(rivals, totals)
        page.table(ABOUT_AGGREGATE, header, rows)
        print(_text("over all tasks and seeds", header, rows))
        figures = [
            (f"curves-{goal}.png", draw_curves(rivals, tasks), ABOUT_CURVES),
            (f"aggregate-{goal}.png", draw_aggregates(rivals, totals), ABOUT_AGGREGATE),
        ]
        if any(found.curve([task], training=True).steps for found in rivals for task in tasks):
            figures.insert(1, (f"training-{goal}.png", draw_curves(rivals, tasks, training=True), ABOUT_TRAINING))
        for name, png, about in figures:
            (out / name).write_bytes(png)
            page.text(about)
            page.picture(png, f"{name}: success of {', '.join(found.name for found in rivals)}")
        header, rows = efficiency_table(rivals, tasks)
        page.table(ABOUT_EFFICIENCY, header, rows, ruled=1)
        print(_text("steps to a success rate", header, rows))
        header, rows = clock_table(rivals)
        page.table("Wall time of the steps made, all runs of a method added up.", header, rows)
        print(_text("wall clock", header, rows))
    page.heading("Published, with dense reward")
    page.table(
        "Not ours: success in % over MT10 with random goals and Meta-World's dense reward, 3 seeds, as published by "
        "TD-MPC2; a reference for what the tasks allow.",
        ["method", *(f"{steps:,} steps" for steps in PUBLISHED_STEPS)],
        [[name, *(f"{100 * rate:.1f}" for rate in rates)] for name, rates in PUBLISHED_DENSE.items()],
    )
    page.write(out / "index.html")
    _write_tables(out, methods, tasks, totals)
    for note in notes:
        print(f"missing: {note}", file=sys.stderr)
    print(f"written: {out / 'index.html'}, and tables (.csv) and figures (.png) beside it")


Totals = dict[tuple[str, str], Aggregate | None]
"""Of each method and goal mode."""
Cells = tuple[list[str], list[list[str]]]
"""A table's header and rows."""


def final_table(methods: Sequence[Method], tasks: Sequence[str], totals: Totals) -> Cells:
    """Task x method as in the paper, published means beside ours."""
    goal = methods[0].goal
    published = PUBLISHED.get(goal, {})
    header = ["task", *(found.name for found in methods), *(f"{name} (published)" for name in published)]
    rows = [[task, *(_rate(found.final(task)) for found in methods), *("" for _ in published)] for task in tasks]
    means = [totals[found.name, goal] for found in methods]
    ours = ["-" if total is None else f"{100 * total.mean:.1f}" for total in means]
    theirs = [f"{100 * rate:.1f}" for rate in published.values()]
    if set(tasks) == set(TASK_SETS["mt10"]):
        return header, [*rows, ["mean", *ours, *theirs]]
    return header, [*rows, ["mean", *ours, *("" for _ in theirs)], ["mean over MT10", *("" for _ in ours), *theirs]]


def _rate(scores: Any) -> str:
    if not len(scores):
        return "-"
    spread = deviation(scores)
    return f"{100 * scores.mean():.1f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")


def aggregate_table(methods: Sequence[Method], totals: Totals) -> Cells:
    """Mean and interquartile mean with intervals."""
    rows = []
    for found in methods:
        total = totals[found.name, found.goal]
        cells = ["-", "-"]
        if total is not None:
            cells = [
                f"{100 * value:.1f}{_brackets(interval)}"
                for value, interval in (
                    (total.mean, total.mean_95),
                    (total.interquartile_mean, total.interquartile_mean_95),
                )
            ]
        rows.append([found.name, str(len({agent.seed for agent in found.agents()})), *cells])
    return ["method", "seeds", "mean", "interquartile mean"], rows


def _brackets(interval: Interval | None) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.1f} - {100 * interval[1]:.1f})"


def efficiency_table(methods: Sequence[Method], tasks: Sequence[str]) -> Cells:
    """Steps to the first evaluation at each of :data:`LEVELS`, per task and for the mean over tasks."""
    header = ["task", *(f"{found.name}: {level:.0%}" for found in methods for level in LEVELS)]
    rows = []
    for name, over in [*((task, [task]) for task in tasks), ("mean", list(tasks))]:
        reached = [found.curve(over).reaches(level) for found in methods for level in LEVELS]
        rows.append([name, *("-" if steps is None else f"{steps:,}" for steps in reached)])
    return header, rows


def clock_table(methods: Sequence[Method]) -> Cells:
    """Hours, and environment steps of all agents together per second."""
    rows = []
    for found in methods:
        seconds = sum(run.seconds for run in found.runs)
        steps = sum(run.reached * len(run.agents) for run in found.runs)
        rate = f"{steps / seconds:.1f}" if seconds else "-"
        rows.append([found.name, str(len(found.runs)), f"{steps:,}", f"{seconds / 3600:.2f}", rate])
    return ["method", "runs", "environment steps", "hours", "steps per second"], rows


def draw_curves(methods: Sequence[Method], tasks: Sequence[str], training: bool = False) -> bytes:
    """Success at evaluations, or of training episodes: a panel for each task and one for their mean."""
    panels: list[tuple[str, list[str]]] = [(task, [task]) for task in tasks]
    if len(tasks) > 1:
        panels.append(("mean over tasks", list(tasks)))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(5.5, 3.2 * columns), 2.9 * lines + 0.6), dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axis, (title, over) in zip(axes, panels, strict=False):
        for number, found in enumerate(methods):
            colour, curve = f"C{number}", found.curve(over, training)
            if len(over) == 1:
                for agent in found.agents(over[0]):
                    own = sorted((found.training if training else found.success)(agent).items())
                    axis.plot([s for s, _ in own], [v for _, v in own], color=colour, lw=0.8, alpha=0.35)
            axis.plot(curve.steps, curve.mean, "o-", ms=3, color=colour, label=found.name)
            banded = [(s, b) for s, b in zip(curve.steps, curve.band, strict=True) if b is not None]
            if banded:
                axis.fill_between(
                    [s for s, _ in banded], [b[0] for _, b in banded], [b[1] for _, b in banded],
                    color=colour, alpha=0.18, lw=0,
                )  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0"))
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.supxlabel("environment steps per agent", fontsize=10)
    figure.supylabel("training episodes in success" if training else "success", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods), fontsize=9)
    return _png(figure)


def draw_aggregates(methods: Sequence[Method], totals: Totals) -> bytes:
    """Mean and interquartile mean of each method with their intervals."""
    figure = Figure(figsize=(8, 1.1 + 0.4 * len(methods)), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for number, found in enumerate(reversed(methods)):
        total = totals[found.name, found.goal]
        if total is None:
            continue
        for axis, value, interval in (
            (axes[0], total.mean, total.mean_95),
            (axes[1], total.interquartile_mean, total.interquartile_mean_95),
        ):
            colour = f"C{len(methods) - 1 - number}"
            if interval is not None:
                axis.barh(number, interval[1] - interval[0], left=interval[0], color=colour, alpha=0.35, height=0.6)
            axis.plot([value, value], [number - 0.3, number + 0.3], color=colour, lw=2.5)
    axes[0].set_yticks(range(len(methods)), [found.name for found in reversed(methods)])
    for axis, title in zip(axes, ("mean", "interquartile mean"), strict=True):
        axis.set_title(f"{title} of success", fontsize=10)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.6, len(methods) - 0.4)
        axis.grid(alpha=0.3, axis="x")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _text(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:], ""])


def _write_tables(out: Path, methods: Sequence[Method], tasks: Sequence[str], totals: Totals) -> None:
    """Everything in numbers: table.csv, aggregate.csv, curves.csv."""
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["goal", "method", "task", "seeds", "success", "deviation"])
        for found in methods:
            for task in tasks:
                scores = found.final(task)
                mean = float(scores.mean()) if len(scores) else math.nan
                writer.writerow([found.goal, found.name, task, len(scores), mean, deviation(scores)])
    with (out / "aggregate.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["goal", "method", "mean", "mean_low", "mean_high", "iqm", "iqm_low", "iqm_high"]
            + [f"steps_to_{level:g}" for level in LEVELS]
            + ["hours"]
        )
        for found in methods:
            total, curve = totals[found.name, found.goal], found.curve(tasks)
            row: list[Any] = [found.goal, found.name]
            if total is None:
                row += [math.nan] * 6
            else:
                row += [total.mean, *(total.mean_95 or ("", ""))]
                row += [total.interquartile_mean, *(total.interquartile_mean_95 or ("", ""))]
            row += [curve.reaches(level) or "" for level in LEVELS]
            writer.writerow([*row, sum(run.seconds for run in found.runs) / 3600])
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["goal", "method", "task", "env_steps", "success", "low", "high", "training"])
        for found in methods:
            for name, over in [*((task, [task]) for task in tasks), ("mean", list(tasks))]:
                curve, trained = found.curve(over), found.curve(over, training=True)
                shares = dict(zip(trained.steps, trained.mean, strict=True))
                for steps, value, interval in zip(curve.steps, curve.mean, curve.band, strict=True):
                    row = [found.goal, found.name, name, steps, value, *(interval or ("", "")), shares.get(steps, "")]
                    writer.writerow(row)
