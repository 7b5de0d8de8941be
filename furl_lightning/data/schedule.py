"""How often a run is evaluated and saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from furl_lightning.utils.settings import AtLeast, Settings


@dataclass(frozen=True)
class EvaluationSettings(Settings, option="data.evaluation"):
    """Evaluations of the deterministic policies while training."""

    every: Annotated[int, AtLeast(1)] = 100_000
    """Environment steps between evaluations; there is one at the end too."""
    episodes: Annotated[int, AtLeast(0)] = 0
    """Episodes an evaluation, for each agent; 0 stands for 1 with fixed and 10 with random goals."""


@dataclass(frozen=True)
class CheckpointSettings(Settings, option="data.checkpoints"):
    """Checkpoints to go on from."""

    every: Annotated[int, AtLeast(1)] = 10_000
    """Environment steps between checkpoints; there is one at the beginning and at the end too."""
    keep: Annotated[int, AtLeast(2)] = 2
    """Newest checkpoints that are kept: at least one to fall back on."""
