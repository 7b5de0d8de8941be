"""Make the README's table and curves anew from ``results/``, with what furl-report is made of.

The table compares methods after equal numbers of steps; one that has not come so far has a dash there. Tasks that have
been run with the same methods share a figure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from furl_lightning.analysis.figures import draw_curves, png
from furl_lightning.analysis.report import Method, deviation, group, tasks_of
from furl_lightning.runs.read import Run, method, read
from furl_lightning.tasks import TASK_SETS

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("FuRL", "SAC", "VLM", "Relay")
LATEST = 10_000
EPISODES = {"fixed": "one episode, as every episode of a deterministic policy is the same", "random": "ten episodes"}


def alike(runs: Sequence[Run]) -> list[list[Method]]:
    """Runs of one task each, as methods, together where tasks were run with the same methods; most methods first."""
    names: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        names[run.agents[0].task].add(method(run.settings))
    parts: dict[frozenset[str], list[Run]] = defaultdict(list)
    for run in runs:
        parts[frozenset(names[run.agents[0].task])].append(run)
    found = [group(part, [method(run.settings) for run in part]) for part in parts.values()]
    return sorted(found, key=lambda methods: -len(methods))


def compare(runs: Sequence[Run], steps: int) -> dict[str, str]:
    """Each method's success on one task after so many steps, of those that have come so far."""
    cells = {}
    for run in runs:
        if run.evaluated >= steps:
            scores = np.array([evaluations[steps] for evaluations in run.success.values()])
            latest = [v for own in run.training.values() for at, v in own.items() if steps - LATEST < at <= steps]
            success = f"{100 * scores.mean():.0f} ± {100 * deviation(scores):.0f} ({len(scores)})"
            cells[method(run.settings)] = f"{success}, {sum(latest):.0f} of {len(latest)}"
    return cells


def table(corner: str, columns: Sequence[str], rows: dict[str, dict[str, str]]) -> str:
    """Rows by their names, in Markdown; a cell that a row lacks is a dash."""
    lines = [[corner, *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(cells.get(column, "-") for column in columns)] for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place(run: Run) -> tuple[int, int]:
    """Methods have the same colour in every figure, tasks an order of their own."""
    return METHODS.index(method(run.settings)), TASK_SETS["mt10"].index(run.agents[0].task)


def section(results: Path, pictures: Path) -> str:
    """The README's part in Markdown; its figures are written into a folder, in the place of those that are there."""
    for old in pictures.glob("evidence-*.png"):
        old.unlink()
    parts = []
    for goal, episodes in EPISODES.items():
        runs = sorted((read(path.parent) for path in (results / goal).glob("*/source.yaml")), key=_place)
        rows = {}
        for task in TASK_SETS["mt10"]:
            own = [run for run in runs if run.agents[0].task == task]
            for steps in sorted({run.evaluated for run in own}):
                rows[f"{task}, {steps:,}"] = compare(own, steps)
        if not rows:
            continue
        parts += [
            table(f"{goal} goals, steps", METHODS, rows),
            f"Success in % at that step ± standard deviation over seeds (their number), {episodes}; then how many "
            f"training episodes of all seeds ended in success in the {LATEST:,} steps before, in FuRL and Relay partly "
            "with the SAC agent.",
        ]
        for number, methods in enumerate(alike(runs), 1):
            if len(methods) > 1:
                picture, tasks = f"evidence-{goal}-{number}.png", tasks_of(methods)
                (pictures / picture).write_bytes(png(draw_curves(methods, tasks, training=True)))
                parts.append(f"![training success on {', '.join(tasks)}, {goal} goals](docs/pictures/{picture})")
    return "\n\n".join(parts) + "\n"


def draw_light(results: Path) -> bytes:
    """Training success of FuRL with the earlier and with the present embedded model, and of SAC, as PNG."""
    names = {"light/furl": "FuRL, Embedded", "fixed/furl": "FuRL, EmbeddedCLIP", "fixed/sac": "SAC"}
    tasks = [path.name.removeprefix("furl-") for path in sorted((results / "light").glob("furl-*"))]
    folders = [(results / f"{kind}-{task}", name) for kind, name in names.items() for task in tasks]
    methods = group([read(folder) for folder, _ in folders], [name for _, name in folders])
    return png(draw_curves(methods, tasks, training=True))


def split(readme: str) -> tuple[str, str, str]:
    """What comes before, in and after the README's part, marks left where they are.

    Raises:
        SystemExit: there is no such part.
    """
    before, begin, rest = readme.partition("<!-- evidence -->\n")
    inner, end, after = rest.partition("<!-- /evidence -->\n")
    if not (begin and end):
        raise SystemExit("README.md has no part between <!-- evidence --> and <!-- /evidence -->")
    return before + begin, inner, end + after


def main() -> None:
    """Write the README's part and its figures, and the figure of docs/findings.md."""
    readme = ROOT / "README.md"
    before, _, after = split(readme.read_text())
    readme.write_text(before + section(ROOT / "results", ROOT / "docs/pictures") + after)
    (ROOT / "docs/pictures/light_runs.png").write_bytes(draw_light(ROOT / "results"))


if __name__ == "__main__":
    main()
