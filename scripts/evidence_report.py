"""Make the README's table and curves anew from ``results/evidence``, by furl-report.

Compared are the tasks on which every method has a run; what else there is waits until its block is whole.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from furl_lightning.report_command import report
from furl_lightning.run_metrics import Run, method, read

ROOT = Path(__file__).resolve().parent.parent
GOALS = ("fixed", "random")
LABELS = ("SAC=sac-*", "FuRL=furl-*", "VLM=vlm-*", "Relay=relay-*")


def shared_tasks(runs: list[Run]) -> list[str]:
    """The tasks that all methods have, in the order of the first method's runs."""
    tasks: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        tasks[method(run.settings)].extend(dict.fromkeys(agent.task for agent in run.agents))
    first, *others = tasks.values()
    return [task for task in first if all(task in other for other in others)]


def table(csv_file: Path, runs: list[Run]) -> str:
    """Task by method, success in % of the last evaluation, as Markdown."""
    rates: dict[str, dict[str, str]] = defaultdict(dict)
    seeds = set()
    with csv_file.open(newline="") as file:
        for row in csv.DictReader(file):
            spread = "" if row["deviation"] == "nan" else f" ± {100 * float(row['deviation']):.0f}"
            rates[row["task"]][row["method"]] = f"{100 * float(row['success']):.0f}{spread}"
            seeds.add(int(row["seeds"]))
    names = list(next(iter(rates.values())))
    reached = {task: {run.evaluated for run in runs if any(a.task == task for a in run.agents)} for task in rates}
    lines = [f"| task | steps | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for task, row in rates.items():
        steps = " to ".join(f"{step:,}" for step in sorted({min(reached[task]), max(reached[task])}))
        lines.append(f"| {task} | {steps} | {' | '.join(row[name] for name in names)} |")
    episodes = "one episode" if runs[0].goal == "fixed" else "ten episodes"
    counted = "-".join(str(n) for n in sorted({min(seeds), max(seeds)}))
    lines += ["", f"Success in % (± standard deviation) of {counted} seeds, {episodes} each, {runs[0].goal} goals:"]
    return "\n".join(lines)


def main() -> None:
    """Write ``docs/pictures/evidence-GOAL.png`` and the README's part between the marks."""
    parts = []
    for goal in GOALS:
        folders = [path.parent for path in sorted((ROOT / "results" / goal).glob("*/source.yaml"))]
        if not folders:
            continue
        runs = [read(folder) for folder in folders]
        tasks = shared_tasks(runs)
        if not tasks:
            continue
        compared = [run for run in runs if all(agent.task in tasks for agent in run.agents)]
        with tempfile.TemporaryDirectory() as out:
            paths = [str(run.folder) for run in compared]
            if report([*paths, "--out", out, "--tasks", *tasks, "--label", *LABELS]) != 0:
                raise SystemExit(1)
            picture = f"docs/pictures/evidence-{goal}.png"
            shutil.copyfile(Path(out, f"curves-{goal}.png"), ROOT / picture)
            parts.append(f"{table(Path(out, 'table.csv'), compared)}\n\n![success, {goal} goals]({picture})")
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition("<!-- evidence -->\n")
    _, end, after = rest.partition("<!-- /evidence -->\n")
    if not (begin and end):
        raise SystemExit("README.md has no part between <!-- evidence --> and <!-- /evidence -->")
    readme.write_text(before + begin + "\n\n".join(parts) + "\n" + end + after)


if __name__ == "__main__":
    main()
