"""Of all pairs of frames in a run's replay buffer, the share that the goal image puts in an order, as the run went on.

    python scripts/goal_pairs.py runs/evidence/fixed/furl-* --out results/goal_pairs.csv

Counts from the rings beside a run's last checkpoint, so also for runs older than the metric ``alignment/ordered``,
which is the same share of a batch. ``nearest`` is the least distance to the goal image so far.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

MARGINS = (0.25, 0.1)


def ordered(distance: np.ndarray, margin: float) -> float:
    """Share of all pairs of a sample [T] that differ by more than the margin."""
    ascending = np.sort(distance)
    smaller = np.searchsorted(ascending, ascending - margin)  # of each, how many lie below it by more than the margin
    return float(smaller.sum() / (len(distance) * (len(distance) - 1) / 2))


def main() -> None:
    """Run from the command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("runs", type=Path, nargs="+")
    flags.add_argument("--out", type=Path, required=True)
    options = flags.parse_args()
    table = [["run", "row", "env_steps", *(f"margin_{margin:g}" for margin in MARGINS), "nearest"]]
    for run in options.runs:
        rings = sorted((run / "checkpoints/rings").glob("*.safetensors"))
        if not rings or "goal_distance" not in load_file(rings[0]):
            raise SystemExit(f"{run} has no checkpoint with distances to a goal image")
        distances = np.concatenate([load_file(ring)["goal_distance"] for ring in rings])  # [T, A]
        for steps in range(2_500, len(distances) + 1, 2_500):
            for row, distance in enumerate(distances[:steps].T):
                shares = [f"{ordered(distance, margin):.3f}" for margin in MARGINS]
                table.append([run.name, str(row), str(steps), *shares, f"{distance.min():.3f}"])
    with options.out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
