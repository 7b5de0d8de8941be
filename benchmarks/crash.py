"""Kill a small real run again and again with -9, resume it each time, and compare it with one left in peace.

    python benchmarks/crash.py --kills 20

A kill comes at a random environment step and some random milliseconds after it; every second one is aimed
at a save; every fifth comes while the process is still starting. Exits with 0 if nothing was lost.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from furl_lightning.method.success_memory import MemorySettings, SuccessMemory
from furl_lightning.replay.buffer import FIELDS, ReplayBuffer
from furl_lightning.replay.journal import Journal
from furl_lightning.training.checkpoint import load_whole

SETTINGS: dict[str, Any] = {
    "data.tasks": "[drawer-close]",
    "data.env.goal": "random",
    "data.collection.start_steps": 200,
    "data.collection.steps_per_iteration": 10,
    "data.replay.batch_size": 32,
    "data.replay.size": 500,
    "data.memory.size": 500,
    "data.collection.num_workers": 1,
    "data.checkpoints.every": 50,
    "data.evaluation.every": 500,
    "data.evaluation.episodes": 1,
    "model.sac.hidden": "[64, 64]",
    "model.relay.threshold": 200,
    "model.log_every": 10,
    "trainer.enable_progress_bar": "false",
    "trainer.accelerator": "cpu",
}
START = "import torch; torch.set_num_threads(1); from furl_lightning.cli import furl_fit; furl_fit()"


class Life:
    """One process of the run, in the run's folder."""

    def __init__(self, runs: Path, name: str, env_steps: int) -> None:
        self.folder = runs / name
        settings = {**SETTINGS, "data.env_steps": env_steps}
        flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
        self.resumed_at = saved_steps(self.folder)
        if self.resumed_at is not None:
            flags += ["--ckpt_path", "last"]
        self.log = runs / f"{name}.log"
        self._metrics_before = self._metrics_file()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", START, "--runs", str(runs), "--name", name, *flags],
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"),
        )

    def wait_for_step(self, step: int) -> bool:
        """Wait until the run has logged a step after this process has begun; False if it ended before."""
        while self.process.poll() is None:
            if self.has_logged() and last_step(self.folder) >= step:
                return True
            time.sleep(0.002)
        return False

    def wait_for_save(self) -> bool:
        """Wait until a save is under way; False if the process ended before."""
        checkpoints = self.folder / "checkpoints"
        while self.process.poll() is None:
            if any(checkpoints.glob("*.part")) or any(checkpoints.glob("rings/*.part")):
                return True
        return False

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            SystemExit: with what the process wrote, if it failed.
        """
        if self.process.wait():
            sys.exit(f"furl-fit ended with status {self.process.returncode}:\n{self.log.read_text()}")

    def has_logged(self) -> bool:
        """Whether this process has made steps and logged them; metrics.csv is another file then."""
        return self._metrics_file() != self._metrics_before

    def _metrics_file(self) -> int:
        metrics = self.folder / "metrics.csv"
        return metrics.stat().st_ino if metrics.exists() else 0


def saved_steps(folder: Path) -> int | None:
    """Environment steps of ``last.ckpt`` after a check of all that belongs to it; None where there is none."""
    last = folder / "checkpoints" / "last.ckpt"
    return int(load_whole(last)["FuRLDataModule"]["env_steps"]) if last.exists() else None


def last_step(folder: Path) -> int:
    """The last environment step that metrics.csv knows."""
    metrics = folder / "metrics.csv"
    if not metrics.exists():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 300))
        lines = file.read().decode().splitlines()[:-1]
    return max((int(line.split(",")[0]) for line in lines[-2:] if line.split(",")[0].isdecimal()), default=0)


def traces_of_a_save(folder: Path) -> set[tuple[str, int]]:
    """Files, by name and inode, that a finished save would have named, linked, or removed."""
    checkpoints = folder / "checkpoints"
    last, steps = checkpoints / "last.ckpt", sorted(checkpoints.glob("step-*.ckpt"))
    found = {*checkpoints.rglob("*.part"), *steps[:-2]}
    if steps and not (last.exists() and steps[-1].samefile(last)):
        found.add(steps[-1])
    needed = {entry["file"] for path in steps for entry in load_whole(path)["FuRLDataModule"]["journal"]}
    found |= {path for path in checkpoints.glob("rings/*") if f"rings/{path.name}" not in needed}
    return {(path.name, path.stat().st_ino) for path in found}


def contents(folder: Path) -> dict[str, Any]:
    """All that a run has come to: its last checkpoint, the rings, metrics.csv, TensorBoard's scalars."""
    checkpoint = load_whole(folder / "checkpoints" / "last.ckpt")
    state = checkpoint["FuRLDataModule"]
    num, width = state["goal_embedding"].shape
    replay = ReplayBuffer(SETTINGS["data.replay.size"])
    memory = SuccessMemory(num, width, MemorySettings(size=SETTINGS["data.memory.size"]))
    memory.load_counters(state["memory"])
    Journal(None).restore(state.pop("journal"), folder / "checkpoints", replay, memory)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if "perf/" not in row[1]]
    return {
        "checkpoint": checkpoint,
        "replay buffer": {name: replay.steps(replay.oldest, replay.steps_written)[name] for name in FIELDS},
        "success memory": {"positives": memory.positive, "negatives": memory.negative},
        "metrics.csv": rows,
        "TensorBoard": {
            tag: [(event.step, repr(event.value)) for event in events.Scalars(tag)]
            for tag in sorted(events.Tags()["scalars"])
            if "perf/" not in tag
        },
    }


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Names of the leaves that are not equal bit by bit."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from differences(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(a, b, f"{where}/{i}")
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if ours.dtype != theirs.dtype or not torch.equal(_bits(ours), _bits(theirs)):
            yield where
    elif ours != theirs:
        yield where


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().flatten().view(torch.uint8) if values.numel() else values


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--env_steps", type=int, default=0, help="length of the run; 60 a kill by default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--runs", type=Path, default=None, help="an empty folder; a temporary one by default")
    args = parser.parse_args()
    env_steps = args.env_steps or max(600, 60 * args.kills)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        runs = args.runs or Path(temporary)
        started = time.monotonic()
        straight = Life(runs, "straight", env_steps)
        while saved_steps(straight.folder) is None:
            if straight.process.poll() is not None:
                straight.finish()
            time.sleep(0.05)
        starting = time.monotonic() - started
        straight.finish()
        print(f"uninterrupted run of {env_steps:,} steps: {time.monotonic() - started:.0f} s", flush=True)

        folder, kills, hit, redone = runs / "killed", 0, 0, []
        while kills < args.kills:
            before = traces_of_a_save(folder)
            life = Life(runs, "killed", env_steps)
            begun = life.resumed_at or 0
            early = kills % 5 == 4
            if early:
                time.sleep(draw.uniform(0, starting))
            else:
                target = begun + draw.uniform(10, 2 * (env_steps - begun) / (args.kills - kills + 1))
                if life.wait_for_step(int(min(target, env_steps - 60))) and kills % 2:
                    life.wait_for_save()
                time.sleep(draw.uniform(0, 0.03))
            if life.process.poll() is not None:
                life.finish()
                break
            life.process.kill()
            life.process.wait()
            kills += 1
            saving = bool(traces_of_a_save(folder) - before)
            hit += saving
            reached, kept = last_step(folder) if life.has_logged() else begun, saved_steps(folder)
            redone.append(reached - (kept or 0))
            print(
                f"kill {kills:2}: at step {reached:,}{' while starting' if early else ''}"
                f"{', during a save' if saving else ''}; "
                + ("nothing to resume yet" if kept is None else f"resumes at {kept:,}"),
                flush=True,
            )
        Life(runs, "killed", env_steps).finish()
        ours, theirs = contents(runs / "straight"), contents(folder)
        print(f"kills {kills}, {hit} of them during a save")
        print(f"steps redone {sum(redone):,}, at most {max(redone, default=0):,} after a kill (a save every 50)")
        lost = False
        for part in ours:
            found = list(differences(ours[part], theirs[part]))
            lost |= bool(found)
            print(f"{part}: " + (f"differs in {', '.join(found[:5])}" if found else "bit-equal"))
        if lost or kills < args.kills:
            sys.exit("something is lost" if lost else "the run ended before all kills; give it more --env_steps")
        print("nothing lost")


if __name__ == "__main__":
    main()
