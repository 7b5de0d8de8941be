"""``furl-report``: runs side by side as tables and curves, in HTML, CSV and PNG."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from matplotlib.figure import Figure

from furl_lightning.analysis.figures import draw_aggregates, draw_curves, png
from furl_lightning.analysis.html_page import Page
from furl_lightning.analysis.report import Method, by_goal, caveats, group, published_means, tasks_of
from furl_lightning.analysis.tables import (
    Table,
    aggregate_table,
    clock_table,
    dense_table,
    efficiency_table,
    final_table,
    machine_table,
    write_report,
)
from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.runs.read import NoRun, Run, labels, read
from furl_lightning.tasks import METAWORLD, UnknownTask, names_among, task_names
from furl_lightning.utils.durable import is_other, write_folder
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import refuse_unwritable
from furl_lightning.utils.text_table import text_table

MARK = "table.csv"
"""The file by which a folder is known as a report."""
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
ABOUT_CLOCK = "Wall time of the steps made, all runs of a method added up."
ABOUT_MACHINES = "What the steps were made with, by each run's machine.yaml."
ABOUT_DENSE = (
    "Not ours: success in % over MT10 with random goals and Meta-World's dense reward, 3 seeds, as published by "
    "TD-MPC2; a reference for what the tasks allow."
)


def report(argv: Sequence[str] | None = None) -> int:
    """``furl-report``; returns the exit status."""
    return answer("furl-report", _report, argv)


def _report(argv: list[str]) -> int:
    options = parser("furl-report", "Put runs of furl-fit side by side.")
    options.add_argument("runs", nargs="+", type=str, help="Folders of runs, finished or not.")
    options.add_argument("--out", type=str, default="report", help="Folder for index.html, the tables and the figures.")
    options.add_argument("--tasks", nargs="+", type=str, default=None, help="Compare these tasks only.")
    options.add_argument(
        "--label", nargs="+", type=str, default=[], help="NAME=PATTERN: what to call runs whose folders' names match."
    )
    arguments = parse(options, argv)
    out = Path(arguments.out)
    refuse_unwritable(out, "--out")
    if is_other(out, MARK):
        raise BadInput(f"{out} holds something else than a report; choose another --out")
    tasks = None if arguments.tasks is None else names(arguments.tasks)
    if tasks is not None and not tasks:
        raise UnknownTask("no task given; name at least one, e.g. 'drawer-close' or 'mt10'")
    runs, absent = _read([Path(folder) for folder in arguments.runs])
    if tasks is not None:
        there = {agent.task for run in runs for agent in run.agents}
        of_metaworld = all(run.simulator == METAWORLD for run in runs)
        tasks = task_names(tasks) if of_metaworld else names_among(tasks, there)
    methods = group(runs, _names(runs, arguments.label), tasks)
    tasks = tasks_of(methods) if tasks is None else tasks
    if not any(method.final(task).size for method in methods for task in tasks):
        of_tasks = f" of {', '.join(tasks)}" if arguments.tasks else ""
        raise BadInput(
            f"no evaluation{of_tasks} in {', '.join(str(run.folder) for run in runs)} yet; furl-fit evaluates every "
            "data.evaluation.every steps and at its end"
        )
    notes = absent + caveats(methods, tasks)
    print(write_folder(out, MARK, lambda folder: write(folder, methods, tasks, notes)))
    for note in notes:
        print(f"missing: {note}", file=sys.stderr)
    print(f"written: {out / 'index.html'}, and tables (.csv) and figures (.png) beside it")
    return 0


def _read(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs, and what is wrong with the folders that hold none.

    Raises:
        NoRun: none of them holds a run.
    """
    runs, absent = [], []
    once: dict[Path, Path] = {}
    for path in folders:
        once.setdefault(path.resolve(), path)
    for path in once.values():
        if path.is_file():
            continue  # a shell's runs/* also matches files
        try:
            runs.append(read(path))
        except NoRun as error:
            absent.append(str(error))
    if not runs:
        raise NoRun(absent[0] if len(absent) == 1 else f"no run in any of {len(absent)} folders: {absent[0]}; ...")
    return runs, absent


def _names(runs: Sequence[Run], label_options: Sequence[str]) -> list[str]:
    """Each run's name: that of the first label whose pattern its folder's name matches, or what its settings say.

    Raises:
        BadInput: a label without a pattern, or one that matches nothing.
    """
    folders = [run.folder.resolve().name for run in runs]
    patterns = []
    for label in label_options:
        name, equals, pattern = label.partition("=")
        if not (name and equals and pattern):
            raise BadInput(f"--label must be NAME=PATTERN such as 'SAC=sac-*', not '{label}'")
        if not any(fnmatch(folder, pattern) for folder in folders):
            raise BadInput(f"--label {label} matches no run; their names are {', '.join(sorted(folders))}")
        patterns.append((name, pattern))
    chosen = [next((name for name, pattern in patterns if fnmatch(folder, pattern)), None) for folder in folders]
    derived = iter(labels([run for run, name in zip(runs, chosen, strict=True) if name is None]))
    return [next(derived) if name is None else name for name in chosen]


def write(out: Path, methods: Sequence[Method], tasks: Sequence[str], notes: Sequence[str]) -> str:
    """Write the report's files; returns its tables as text."""
    totals = {method: method.aggregate(tasks) for method in methods}
    write_report(out, methods, tasks, totals)
    page = Page("furl-report")
    page.text(f"{sum(len(method.runs) for method in methods)} runs of {', '.join(method.name for method in methods)}.")
    if notes:
        page.heading("What is missing")
        page.items(notes)
    texts: list[str] = []

    def add(about: str, title: str, table: Table) -> None:
        page.table(about, *table)
        texts.append(text_table(table.header, table.rows, title, table.ruled) + "\n")

    def add_figure(name: str, figure: Figure, about: str, compared: Sequence[Method]) -> None:
        picture = png(figure)
        (out / name).write_bytes(picture)
        page.text(about)
        page.picture(picture, f"{name}: success of {', '.join(method.name for method in compared)}")

    for goal, rivals in by_goal(methods):
        page.heading(f"Success, {goal} goals")
        title = f"success in % at the last evaluation, {goal} goals"
        add(ABOUT_TABLE, title, final_table(rivals, tasks, totals))
        add(ABOUT_AGGREGATE, "over all tasks and seeds", aggregate_table(rivals, totals))
        curves = draw_curves(rivals, tasks, published=published_means(rivals, tasks))
        add_figure(f"curves-{goal}.png", curves, ABOUT_CURVES, rivals)
        if any(method.curve([task], training=True).steps for method in rivals for task in tasks):
            add_figure(f"training-{goal}.png", draw_curves(rivals, tasks, training=True), ABOUT_TRAINING, rivals)
        add_figure(f"aggregate-{goal}.png", draw_aggregates(rivals, totals), ABOUT_AGGREGATE, rivals)
        add(ABOUT_EFFICIENCY, "steps to a success rate", efficiency_table(rivals, tasks))
        add(ABOUT_CLOCK, "wall clock", clock_table(rivals))
        if any(method.made_with() for method in rivals):
            page.table(ABOUT_MACHINES, *machine_table(rivals))
    page.heading("Published, with dense reward")
    page.table(ABOUT_DENSE, *dense_table())
    page.write(out / "index.html")
    return "\n".join(texts)
