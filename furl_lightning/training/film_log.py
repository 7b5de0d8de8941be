"""Goal images and film strips of every evaluation, for all loggers that take pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.runs.tensorboard import TensorBoard
from furl_lightning.training.evaluation import just_evaluated
from furl_lightning.training.film import Studio, even_steps, strip
from furl_lightning.training.module import FuRLModule

FRAMES = 8
"""In a film strip."""


class FilmLog(Callback):
    """Logs each agent's goal image when a run begins. Films one episode of each task at every evaluation; logs the
    strip, and its first and last frame.

    Films are shot in simulators of their own, one task at a time, and draw no random numbers: training is the same with
    and without them.

    Args:
        pictures: whether there are to be any.
    """

    def __init__(self, pictures: bool = True) -> None:
        self.pictures = pictures

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the goal images; those of a run that goes on are in its logs already."""
        assert isinstance(pl_module, FuRLModule)
        data = pl_module.data
        for place, image in data.goal_images.items() if self.pictures else ():
            for logger in filter(takes_pictures, trainer.loggers):
                log_picture(logger, f"goal/{data.agents[place].task}/{data.agents[place].seed}", image, data.env_steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Where there has just been an evaluation: show it."""
        assert isinstance(pl_module, FuRLModule)
        loggers, data = [logger for logger in trainer.loggers if takes_pictures(logger)], pl_module.data
        if self.pictures and loggers and data.simulators.render is not None and just_evaluated(trainer):
            self._film(loggers, pl_module, data)

    def _film(self, loggers: list[Logger], module: FuRLModule, data: FuRLDataModule) -> None:
        firsts: dict[str, int] = {}
        for row, agent in enumerate(data.agents):
            firsts.setdefault(agent.task, row)
        for task, row in firsts.items():
            studio = Studio(module, data, [row])  # 130 MB each: one at a time
            try:
                film = studio.film(row, even_steps(FRAMES, data.episode_steps))
            finally:
                studio.close()
            first, last = film.episode.frames[0], film.episode.frames[-1]
            for name, picture in {"film": strip(film), "first_frame": first, "last_frame": last}.items():
                for logger in loggers:
                    log_picture(logger, f"{name}/{task}", picture, data.env_steps)


def takes_pictures(logger: Logger) -> bool:
    """Whether it is TensorBoard's, or has ``log_image(key, images, step)`` as Lightning's WandbLogger does."""
    return isinstance(logger, TensorBoardLogger) or callable(getattr(logger, "log_image", None))


def log_picture(logger: Any, tag: str, picture: np.ndarray, env_steps: int) -> None:
    """Log a picture, uint8 [H, W, 3], to a logger that takes them."""
    if isinstance(logger, TensorBoard):
        with logger.losing():
            logger.experiment.add_image(tag, picture, env_steps, dataformats="HWC")
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, picture, env_steps, dataformats="HWC")
    else:
        logger.log_image(tag, [picture], step=env_steps)
