"""FuRL: vision-language rewards for robot RL, aligned, for a population of agents at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # worker processes import this, and do without torch
    from furl_lightning.training.policies import Policies

__version__ = "0.1.0"


def load(path: str | os.PathLike[str]) -> Policies:
    """The trained policies of a run's folder or of a checkpoint: ``load("runs/first")["drawer-close", 0]``.

    Raises:
        BadInput: no such file, no checkpoint of furl-fit, or one of another version.
    """
    from pathlib import Path

    from furl_lightning.training.policies import Policies

    return Policies(Path(path))
