"""Keep what a figure needs of a run: its configuration, its evaluations and curves, and where they come from.

    python scripts/keep_run.py runs/sac results/mine --steps 20000 --command 'furl-fit ...' --commit COMMIT

makes ``results/mine/sac``, or brings it up to date.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
from importlib.metadata import version
from pathlib import Path

import yaml

KEPT = ("eval/", "train/success", "perf/env_steps_per_s")
"""Prefixes of the metrics that are kept; furl-report reads a folder of them like a run."""
CURVES = ("memory/", "relay/", "alignment/", "reward/")
"""Prefixes of the learner's metrics, which may be thinned out."""


def keep(run: Path, into: Path, steps: int, command: str, commit: str, every: int = 1) -> Path:
    """Write a run's ``config.yaml``, ``metrics.csv`` and ``source.yaml`` into ``into/<its name>``, and return that.

    Of the learner's metrics, those at multiples of ``every`` environment steps.

    ``source.yaml`` lists what made it: one entry for each call that went on with the run.
    """
    out = into / run.name
    out.mkdir(parents=True, exist_ok=True)
    newest = max(run.glob("config*.yaml"), key=lambda path: (len(path.name), path.name))
    settings = [line for line in newest.read_text().splitlines(keepends=True) if not line.startswith("runs: ")]
    (out / "config.yaml").write_text("".join(settings))  # where the run lay matters on its machine alone
    with (run / "metrics.csv").open(newline="") as file, (out / "metrics.csv").open("w", newline="") as target:
        rows = csv.reader(file)
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(next(rows))
        for row in rows:
            if row[1].startswith(KEPT) or (row[1].startswith(CURVES) and int(row[0]) % every == 0):
                writer.writerow(row)
    source = out / "source.yaml"
    calls = yaml.safe_load(source.read_text()) if source.exists() else []
    calls.append({"steps": steps, "command": command, "commit": commit, "machine": machine()})
    source.write_text(yaml.safe_dump(calls, sort_keys=False, width=1000))
    return out


def machine() -> str:
    """This machine and the libraries that decide a result, in one line."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchrl", "mujoco", "metaworld"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({model or platform.machine()}), Python {platform.python_version()}, {libraries}"


def main() -> None:
    """Run from the command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("run", type=Path)
    flags.add_argument("into", type=Path)
    flags.add_argument("--steps", type=int, required=True)
    flags.add_argument("--command", required=True)
    flags.add_argument("--commit", required=True)
    flags.add_argument("--every", type=int, default=1, help="steps between the learner's metrics that are kept")
    options = flags.parse_args()
    print(f"kept: {keep(**vars(options))}")


if __name__ == "__main__":
    main()
