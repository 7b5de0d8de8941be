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

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("SAC", "VLM", "Relay", "FuRL")
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


def compare(runs: Sequence[Run], picture: Path) -> list[str]:
    """Have furl-report compare runs, keep its curves, and return its table's rows in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        labels = [f"{name}={name.lower()}-*" for name in {method(run.settings) for run in runs}]
        if report([*(str(run.folder) for run in runs), "--out", folder, "--label", *labels]):
            raise SystemExit(1)
        out = Path(folder)
        shutil.copyfile(next(out.glob("curves-*.png")), picture)
        with (out / "table.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        rates = {row["method"]: row for row in rows if row["task"] == task}
        steps = sorted({run.evaluated for run in runs if run.agents[0].task == task})
        cells = [task, " or ".join(f"{number:,}" for number in steps)]
        cells += [_rate(rates[name]) if name in rates else "-" for name in METHODS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _rate(row: dict[str, str]) -> str:
    return f"{100 * float(row['success']):.0f} ± {100 * float(row['deviation']):.0f} ({row['seeds']})"


def main() -> None:
    """Write ``docs/pictures/evidence-*.png`` and the README's part between the marks."""
    parts = []
    for goal, episodes in EPISODES.items():
        runs = [read(path.parent) for path in sorted((ROOT / "results" / goal).glob("*/source.yaml"))]
        if not runs:
            continue
        rows, pictures = [], []
        for number, group in enumerate(alike(runs).values(), 1):
            picture = ROOT / f"docs/pictures/evidence-{goal}-{number}.png"
            rows += compare(group, picture)
            tasks = ", ".join(dict.fromkeys(run.agents[0].task for run in group))
            pictures.append(f"![success on {tasks}, {goal} goals]({picture.relative_to(ROOT)})")
        head = f"| {goal} goals | steps | {' | '.join(METHODS)} |\n|---|---|{'---|' * len(METHODS)}"
        about = f"Success in % at the last step ± standard deviation over seeds (their number), {episodes}."
        parts.append("\n\n".join(["\n".join([head, *rows]), about, *pictures]))
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition("<!-- evidence -->\n")
    _, end, after = rest.partition("<!-- /evidence -->\n")
    if not (begin and end):
        raise SystemExit("README.md has no part between <!-- evidence --> and <!-- /evidence -->")
    readme.write_text(before + begin + "\n\n".join(parts) + "\n" + end + after)


if __name__ == "__main__":
    main()
