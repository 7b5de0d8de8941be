"""What a save costs: time, bytes and memory with a large replay buffer, and its share of a quick run's time.

    python benchmarks/save_cost.py
    python benchmarks/save_cost.py --quick 2000

The first fills a replay buffer of 300,000 transitions with random embeddings, 1,024 wide, and the success memory
beside it, and saves with the callback that runs use. The second runs conf/quick.yaml for so many environment
steps, with ten saves.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from tensordict import TensorDict

sys.path.insert(0, str(Path(__file__).parents[1]))

from furl_lightning.commands.fit import fit
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.rendering import close_gl
from furl_lightning.replay.buffer import FIELDS, ReplaySettings
from furl_lightning.tasks import EPISODE_STEPS
from furl_lightning.training.checkpoint import Checkpoints
from furl_lightning.training.module import FuRLModule
from furl_lightning.utils.stopping import Stopping
from furl_lightning.vlm import CLIP
from tests.tiny_clip import make_tiny_clip

ROOT = Path(__file__).parents[1]


class Cost:
    """A context that measures a block: seconds, bytes that the process writes, and its greatest extra memory."""

    def __enter__(self) -> Cost:
        self._end = threading.Event()
        self._memory, self._peak = _anonymous_memory(), 0
        self._bytes = _bytes_written()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._end.set()
        self._watcher.join()
        self.bytes = _bytes_written() - self._bytes
        self.extra_memory = max(0, self._peak - self._memory)

    def _watch(self) -> None:
        while not self._end.wait(0.002):
            self._peak = max(self._peak, _anonymous_memory())


def _anonymous_memory() -> int:
    """Bytes of this process that are not a file's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def _bytes_written() -> int:
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


class Saves(Checkpoints):
    """At the start of training: fill the rings, save ten times, stop."""

    def __init__(self, folder: Path, transitions: int) -> None:
        super().__init__(folder, Stopping())
        self.transitions = transitions

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the cost of each save."""
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        print(f"{'save':<24} {'time':>8} {'written':>11} {'extra memory':>13}")
        for number in range(1, 11):
            new = self.transitions if number == 1 else 10_000
            for _ in range(new // EPISODE_STEPS):
                self._episode(data)
            with Cost() as cost:
                self.save(trainer)
            name = f"{number:2}: {new:,} new"
            print(
                f"{name:<24} {cost.seconds:6.2f} s {cost.bytes / 1e6:8.1f} MB {cost.extra_memory / 1e6:10.1f} MB",
                flush=True,
            )
        replay = data.experience.replay
        size = len(replay) * replay.num_agents * replay.bytes_per_transition
        print(f"the replay buffer is {size / 1e6:,.0f} MB, last.ckpt {_megabytes(self.folder / 'last.ckpt'):.1f} MB")
        data.env_steps = data.env_steps_total
        trainer.should_stop = True

    def _episode(self, data: FuRLDataModule) -> None:
        num, replay, memory = len(data.agents), data.experience.replay, data.experience.memory
        shapes = {"observation": (39,), "next_observation": (39,), "action": (4,), "embedding": (memory.width,)}
        steps = {name: torch.rand(EPISODE_STEPS, num, *shapes.get(name, ())) for name in FIELDS}
        steps["embedding"], steps["terminated"] = steps["embedding"].half(), steps["terminated"] > 2
        replay.extend(TensorDict(steps, [EPISODE_STEPS, num]))
        success = torch.arange(EPISODE_STEPS) > (EPISODE_STEPS / 2 if data.env_steps % 1000 else EPISODE_STEPS)
        for agent in range(num):
            memory.add_episode(agent, steps["embedding"][:, agent], success)
        data.env_steps += EPISODE_STEPS


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def large(transitions: int) -> None:
    """A first and nine more saves with a full replay buffer."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        vlm = CLIP(str(make_tiny_clip(Path(folder) / "clip", width=1024)))
        replay = ReplaySettings(size=transitions)
        data = FuRLDataModule(["drawer-close"], env_steps=10 * transitions, goal_image=False, replay=replay)
        data.run_folder = Path(folder)
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[Saves(Path(folder) / "checkpoints", transitions)],
        )  # fmt: skip
        trainer.fit(FuRLModule(vlm), datamodule=data, weights_only=True)
    close_gl()


def quick(env_steps: int) -> None:
    """The share of a quick run's time that goes into saves."""
    save, seconds = Checkpoints.save, []

    def timed_save(self: Checkpoints, trainer: Trainer) -> None:
        start = time.perf_counter()
        save(self, trainer)
        seconds.append(time.perf_counter() - start)

    Checkpoints.save = timed_save  # type: ignore[method-assign]
    every = max(1, env_steps // 10)
    settings = {"env_steps": env_steps, "checkpoints.every": every, "evaluation.every": env_steps}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        start = time.perf_counter()
        flags = [part for key, value in settings.items() for part in (f"--data.{key}", str(value))]
        if fit(["--config", str(ROOT / "conf" / "quick.yaml"), "--runs", folder, "--name", "quick", *flags]):
            sys.exit(1)
        elapsed = time.perf_counter() - start
    each = sum(seconds) / len(seconds)
    print(f"{len(seconds)} saves in {elapsed:.0f} s, {1000 * each:.0f} ms each")
    print(f"a save every {every:,} steps is {100 * sum(seconds) / elapsed:.2f} % of the time")
    print(f"one every 10,000 steps, if it took as long: {100 * each / (elapsed / env_steps * 10_000):.3f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=300_000, help="size of the replay buffer")
    parser.add_argument("--quick", type=int, default=0, help="steps of a quick run, in place of the large buffer")
    arguments = parser.parse_args()
    quick(arguments.quick) if arguments.quick else large(arguments.transitions)
