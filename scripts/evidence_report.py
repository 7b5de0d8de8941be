"""Make the README's table and curves anew from ``results/``, by furl-report.

Tasks that have been run with the same methods are compared with each other; a method that has no run of a task yet
has a dash there.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from furl_lightning.report_command import report
from furl_lightning.run_metrics import Run, method, read
from furl_lightning.tasks import TASK_SETS

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("FuRL", "SAC", "VLM", "Relay")
LEVEL = 0.8
EPISODES = {"fixed": "one episode, as every episode of a deterministic policy is the same", "random": "ten episodes"}


def alike(runs: Sequence[Run]) -> dict[tuple[str, ...], list[Run]]:
    """Runs by the methods that their task has been run with; of one task each."""
    methods: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        methods[run.agents[0].task].add(method(run.settings))
    found: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        found[tuple(name for name in METHODS if name in methods[run.agents[0].task])].append(run)
    return dict(sorted(found.items(), key=lambda entry: -len(entry[0])))


def compare(runs: Sequence[Run], picture: Path | None) -> list[str]:
    """Have furl-report compare runs, keep its curves where asked for, and return its table's rows in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        labels = [f"{name}={name.lower()}-*" for name in {method(run.settings) for run in runs}]
        if report([*(str(run.folder) for run in runs), "--out", folder, "--label", *labels]):
            raise SystemExit(1)
        out = Path(folder)
        if picture is not None:
            shutil.copyfile(next(out.glob("curves-*.png")), picture)
        rows, curves = _table(out / "table.csv"), _table(out / "curves.csv")
    lines = []
    for task in [task for task in TASK_SETS["mt10"] if any(run.agents[0].task == task for run in runs)]:
        rates = {row["method"]: row for row in rows if row["task"] == task}
        steps = sorted({run.evaluated for run in runs if run.agents[0].task == task})
        cells = [task, " or ".join(f"{number:,}" for number in steps)]
        for name in METHODS:
            means = [row for row in curves if row["task"] == task and row["method"] == name]
            reached = [int(row["env_steps"]) for row in means if float(row["success"]) >= LEVEL]
            cells.append(_rate(rates[name], min(reached, default=None)) if name in rates else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _place(run: Run) -> tuple[int, int]:
    """Methods have the same colour in every figure, tasks an order of their own."""
    return METHODS.index(method(run.settings)), TASK_SETS["mt10"].index(run.agents[0].task)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _rate(row: dict[str, str], reached: int | None) -> str:
    cell = f"{100 * float(row['success']):.0f} ± {100 * float(row['deviation']):.0f} ({row['seeds']})"
    return cell if reached is None else f"{cell}, {reached:,}"


def section(results: Path, pictures: Path) -> str:
    """The README's part in Markdown; its figures are written into a folder."""
    parts = []
    for goal, episodes in EPISODES.items():
        runs = sorted((read(path.parent) for path in (results / goal).glob("*/source.yaml")), key=_place)
        rows, figures = [], []
        for number, (methods, group) in enumerate(alike(runs).items(), 1):
            picture = f"evidence-{goal}-{number}.png"
            compared = len(methods) > 1
            rows += compare(group, pictures / picture if compared else None)
            tasks = ", ".join(dict.fromkeys(run.agents[0].task for run in group))
            figures += [f"![success on {tasks}, {goal} goals](docs/pictures/{picture})"] if compared else []
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
