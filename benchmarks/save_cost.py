"""What a save costs: time, bytes and memory with a large replay buffer, and its share of a quick run's time.

    python benchmarks/save_cost.py
    python benchmarks/save_cost.py --quick 2000

The first fills a replay buffer of 300,000 transitions with 1,024-wide embeddings (random ones: what is in them
costs nothing) and the success memory beside it, and saves through the training loop's own callback. The
second runs conf/quick.yaml for so many environment steps, with a save every tenth of them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from tensordict import TensorDict

sys.path.insert(0, str(Path(__file__).parents[1]))

from furl_lightning.commands.fit import fit
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.rendering import close_gl
from furl_lightning.tasks import EPISODE_STEPS
from furl_lightning.training.checkpoint import Checkpoints
from furl_lightning.training.module import FuRLModule
from furl_lightning.utils.stopping import Stopping
from furl_lightning.vlm import CLIP
from tests.tiny_clip import make_tiny_clip

ROOT = Path(__file__).parents[1]


class Measured:
    """Times a block, counts what the process hands to the system to write, and watches its own memory."""

    def __enter__(self) -> Measured:
        self._done = threading.Event()
        self._before, self._peak = _own_memory(), 0
        self._written = _bytes_written()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self._done.set()
        self._watcher.join()
        self.written = _bytes_written() - self._written
        self.extra_memory = max(0, self._peak - self._before)

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._peak = max(self._peak, _own_memory())


def _own_memory() -> int:
    """Bytes of this process that are no copy of a file."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def _bytes_written() -> int:
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


class Fill(Checkpoints):
    """At the training's start: fills the rings, saves ten times, stops."""

    def __init__(self, folder: Path, transitions: int) -> None:
        super().__init__(folder, Stopping())
        self.transitions = transitions

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure."""
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        print(f"{'save':<24} {'time':>8} {'written':>11} {'extra memory':>13}")
        for number in range(1, 11):
            new = self.transitions if number == 1 else 10_000
            for _ in range(new // EPISODE_STEPS):
                self._episode(data)
            with Measured() as cost:
                self.save(trainer)
            name = f"{number:2}: {new:,} new"
            print(
                f"{name:<24} {cost.seconds:6.2f} s {cost.written / 1e6:8.1f} MB {cost.extra_memory / 1e6:10.1f} MB",
                flush=True,
            )
        size = sum(values.numel() * values.element_size() for values in data.replay._flat.values())
        print(f"the replay buffer is {size / 1e6:,.0f} MB, last.ckpt {_megabytes(self.folder / 'last.ckpt'):.1f} MB")
        data.env_steps = data.env_steps_total
        trainer.should_stop = True

    def _episode(self, data: FuRLDataModule) -> None:
        num, width = len(data.agents), data.memory.positive.shape[-1]
        shapes = {"observation": (39,), "next_observation": (39,), "action": (4,), "embedding": (width,)}
        names = ("observation", "action", "next_observation", "reward", "terminated", "embedding", "goal_distance")
        steps = {name: torch.rand(EPISODE_STEPS, num, *shapes.get(name, ())) for name in names}
        steps["embedding"], steps["terminated"] = steps["embedding"].half(), steps["terminated"] > 2
        data.replay.extend(TensorDict(steps, [EPISODE_STEPS, num]))
        success = torch.arange(EPISODE_STEPS) > (EPISODE_STEPS / 2 if data.env_steps % 1000 else EPISODE_STEPS)
        for agent in range(num):
            data.memory.add_episode(agent, steps["embedding"][:, agent], success)
        data.env_steps += EPISODE_STEPS


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def large(transitions: int) -> None:
    """A first and nine more saves with a full replay buffer."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        vlm = CLIP(str(make_tiny_clip(Path(folder) / "clip", width=1024)))
        data = FuRLDataModule(["drawer-close"], env_steps=10 * transitions, replay_size=transitions, goal_image=False)
        data.run_folder = Path(folder)
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[Fill(Path(folder) / "checkpoints", transitions)],
        )  # fmt: skip
        trainer.fit(FuRLModule(vlm), datamodule=data, weights_only=True)
    close_gl()


def quick(env_steps: int) -> None:
    """The share of a quick run's time that goes into saves."""
    save, seconds = Checkpoints.save, []

    def timed(self: Checkpoints, trainer: Trainer) -> None:
        started = time.perf_counter()
        save(self, trainer)
        seconds.append(time.perf_counter() - started)

    Checkpoints.save = timed  # type: ignore[method-assign]
    every = max(1, env_steps // 10)
    settings: dict[str, Any] = {"data.env_steps": env_steps, "data.save_every": every, "data.eval_every": env_steps}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        started = time.perf_counter()
        flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
        if fit(["--config", str(ROOT / "conf" / "quick.yaml"), "--runs", folder, "--name", "quick", *flags]):
            sys.exit(1)
        elapsed = time.perf_counter() - started
    each = sum(seconds) / len(seconds)
    print(f"{len(seconds)} saves in {elapsed:.0f} s, {1000 * each:.0f} ms each")
    print(f"a save every {every:,} steps is {100 * sum(seconds) / elapsed:.2f} % of the time")
    print(f"one every 10,000 steps, if it took as long: {100 * each / (elapsed / env_steps * 10_000):.3f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=300_000, help="size of the replay buffer")
    parser.add_argument("--quick", type=int, default=0, help="steps of a quick run, in place of the large buffer")
    chosen = parser.parse_args()
    quick(chosen.quick) if chosen.quick else large(chosen.transitions)
