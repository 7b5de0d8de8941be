"""The progress bar: environment steps, agents in relay, success, speed, time left."""

from __future__ import annotations

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.training.module import FuRLModule


class StepsBar(ProgressBar):
    """One bar over the environment steps per agent; the success shown is of the last training episodes."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
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
        self._bar = tqdm(
            total=data.env_steps_total,
            initial=data.env_steps,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            disable=not self._enabled,
            bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} steps {rate_fmt} left {remaining}{postfix}",
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on by an iteration."""
        assert isinstance(pl_module, FuRLModule)
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
        self._bar.update(data.env_steps - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands."""
        self.on_train_end(trainer, pl_module)
