"""The progress bar: environment steps, agents in relay, success, speed, time left."""

from __future__ import annotations

import sys
from collections import deque
from time import monotonic
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from furl_lightning.data.datamodule import FuRLDataModule, Iteration
from furl_lightning.training.module import FuRLModule


class TimeLeft:
    """How long a run still takes at the mean speed of the later half of its steps with updates, evaluations and all.

    The earlier half is left out because a step becomes cheaper on the way: agents leave the relay. Steps of random
    actions, without updates, are several times quicker. Until they are over, the steps to come are taken to need as
    long as those made and the updates that belong to them.

    Args:
        begin: environment steps made before the run began or went on.
        seconds: the time then.
        start_steps: environment steps of random actions.
        overlap: whether updates are made while the next steps are taken.
    """

    def __init__(self, begin: int, seconds: float, start_steps: int = 0, overlap: bool = False) -> None:
        self._made = (begin, seconds)
        self._marks = deque([self._made])
        """Steps made and the time then, where the steps that count begin, and where they may begin later."""
        self._learned_from = begin
        self._start_steps, self._overlap = start_steps, overlap
        self._learns = False
        self.update_seconds: float | None = None
        """What the updates for one environment step take; None: not known."""

    def update(self, env_steps: int, seconds: float, learns: bool) -> None:
        """Take in how many steps have been made at a time, and whether updates were made for the last of them."""
        if learns and not self._learns:
            self._learns, self._learned_from = True, self._made[0]
            self._marks = deque([self._made])
        self._made = (env_steps, seconds)
        if self._learns:
            learned = env_steps - self._learned_from
            if env_steps - self._marks[-1][0] >= learned / 100:  # so a long run has not many
                self._marks.append(self._made)
            while len(self._marks) > 1 and self._marks[1][0] <= env_steps - learned / 2:
                self._marks.popleft()

    def begin_anew(self, seconds: float) -> None:
        """Leave out what has been so far."""
        self._made = (self._made[0], seconds)
        self._marks = deque([self._made])

    def seconds(self, total: int) -> float | None:
        """Seconds until ``total`` steps are made; None where nothing is known of updates or of the other steps."""
        (first, began), (made, now) = self._marks[0], self._made
        steps, seconds = made - first, now - began
        if not steps or (not self._learns and self.update_seconds is None):
            return None
        step = seconds / steps
        if self._learns:
            return (total - made) * step
        assert self.update_seconds is not None
        learning = max(step, self.update_seconds) if self._overlap else step + self.update_seconds
        random_steps = max(0, min(self._start_steps, total) - made)
        return random_steps * step + (total - made - random_steps) * learning


class _Bar(tqdm):  # type: ignore[type-arg]
    left = "?"

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "left": self.left}


class StepsBar(ProgressBar):
    """One bar over the environment steps per agent; the success shown is of the last training episodes."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._time_left = TimeLeft(0, 0.0)
        self._enabled = True
        self._success = "-"
        self._size_shown = False

    def disable(self) -> None:
        """Draw nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw an empty bar, or one as full as the run that is resumed."""
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._time_left = TimeLeft(
            data.env_steps, monotonic(), data.collection_settings.start_steps, data.collection_settings.overlap
        )
        self._bar = _Bar(
            total=data.env_steps_total,
            initial=data.env_steps,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            disable=not self._enabled,
            bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} steps {rate_fmt} left {left}{postfix}",
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on by an iteration."""
        assert isinstance(pl_module, FuRLModule) and isinstance(batch, Iteration)
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if batch.episode is not None:
            self._success = f"{float(batch.episode.success.float().mean()):.2f}"
        if not self._size_shown:
            self._size_shown = True
            replay, num = data.experience.replay, len(data.agents)
            size = replay.bytes_per_transition
            total = size * num * replay.capacity / 1e9
            self._bar.write(
                f"replay buffer: {size:,} bytes a transition, {total:.2f} GB when full with {num} agents' "
                f"{replay.capacity:,} transitions each",
                file=sys.stderr,
            )
        if data.env_steps % data.episode_steps < data.steps_per_iteration:
            shown = f"success {self._success}"
            relay = pl_module.built.relay
            if relay is not None:
                shown = f"relay {int(relay.active.sum())}/{len(data.agents)}, {shown}"
            self._bar.set_postfix_str(shown, refresh=False)
        learns = batch.actions_to_learn > 0
        self._time_left.update(data.env_steps, monotonic(), learns)
        if not learns and self._time_left.update_seconds is None and self._enabled:
            self._time_left.update_seconds = pl_module.try_update() / data.action_repeat
            self._time_left.begin_anew(monotonic())
        seconds = self._time_left.seconds(data.env_steps_total)
        self._bar.left = "?" if seconds is None else tqdm.format_interval(seconds)
        self._bar.update(data.env_steps - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands."""
        self.on_train_end(trainer, pl_module)
