"""Make the README's table and curves anew from ``results/``, with what furl-report is made of.

Tasks that have been run with the same methods are compared with each other; a method that has no run of a task yet
has a dash there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from furl_lightning.report import Method, deviation, group, tasks_of
from furl_lightning.report_command import draw_curves
from furl_lightning.run_metrics import Run, method, read
from furl_lightning.tasks import TASK_SETS

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("FuRL", "SAC", "VLM", "Relay")
LEVEL = 0.8
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


def row(task: str, methods: Sequence[Method]) -> str:
    """A task's row in Markdown: steps made, and each method's success."""
    steps = sorted({run.evaluated for found in methods for run in found.runs if run.agents[0].task == task})
    cells = {found.name: _cell(found, task) for found in methods}
    shown = [task, " or ".join(f"{number:,}" for number in steps), *(cells.get(name, "-") for name in METHODS)]
    return f"| {' | '.join(shown)} |"


def _cell(found: Method, task: str) -> str:
    scores, reached = found.final(task), found.curve([task]).reaches(LEVEL)
    cell = f"{100 * scores.mean():.0f} ± {100 * deviation(scores):.0f} ({len(scores)})"
    return cell if reached is None else f"{cell}, {reached:,}"


def _place(run: Run) -> tuple[int, int]:
    """Methods have the same colour in every figure, tasks an order of their own."""
    return METHODS.index(method(run.settings)), TASK_SETS["mt10"].index(run.agents[0].task)


def section(results: Path, pictures: Path) -> str:
    """The README's part in Markdown; its figures are written into a folder."""
    parts = []
    for goal, episodes in EPISODES.items():
        runs = sorted((read(path.parent) for path in (results / goal).glob("*/source.yaml")), key=_place)
        rows, figures = [], []
        for number, methods in enumerate(alike(runs), 1):
            tasks = tasks_of(methods)
            rows += [row(task, methods) for task in tasks]
            if len(methods) > 1:
                picture = f"evidence-{goal}-{number}.png"
                (pictures / picture).write_bytes(draw_curves(methods, tasks))
                figures.append(f"![success on {', '.join(tasks)}, {goal} goals](docs/pictures/{picture})")
        if rows:
            head = f"| {goal} goals | steps | {' | '.join(METHODS)} |\n|---|---|{'---|' * len(METHODS)}"
            about = (
                f"Success in % at the last step ± standard deviation over seeds (their number), {episodes}; then the "
                f"steps of the first evaluation with {100 * LEVEL:.0f} % or more."
            )
            parts.append("\n\n".join(["\n".join([head, *rows]), about, *figures]))
    return "\n\n".join(parts) + "\n"


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
    """Write the README's part and its figures."""
    readme = ROOT / "README.md"
    before, _, after = split(readme.read_text())
    readme.write_text(before + section(ROOT / "results", ROOT / "docs/pictures") + after)


if __name__ == "__main__":
    main()
