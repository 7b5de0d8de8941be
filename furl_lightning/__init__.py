"""FuRL: vision-language rewards for robot RL, aligned, for a population of agents at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # worker processes import this, and do without torch
    from furl_lightning.training.policies import Policies

__version__ = "0.1.0"


def load(path: str | os.PathLike[str]) -> Policies:
    """The trained policies of a run's folder or of a checkpoint: ``load("runs/first")["drawer-close", 0]``.

    Raises:
        BadInput: no such file, no checkpoint of furl-fit, or one of another version.
    """
    from furl_lightning.training.policies import Policies

    return Policies(Path(path))


def fit(
    *configs: str | os.PathLike[str],
    name: str,
    runs: str | os.PathLike[str] = "runs",
    ckpt_path: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Path:
    """Train, or resume training, as ``furl-fit`` does: ``fit("quick", name="first", data={"seeds": [0, 1]})``.

    Args:
        configs: YAML files, or names such as ``mt10`` or ``method/sac``, laid over each other.
        name: of the run.
        runs: folder in which runs lie.
        ckpt_path: resume: ``last``, or a checkpoint of the run; ``auto``: start, or go on if there is something.
        settings: over the configurations: ``data``, ``model`` and ``trainer``, as nested dictionaries.

    Returns:
        The run's folder, for :func:`load`.

    Raises:
        BadInput: the run cannot be begun, or cannot go on, like this.
        KeyboardInterrupt: it was stopped; all up to then is saved.
        RuntimeError: it ended early for another reason, which has been printed.
    """
    from furl_lightning.commands.from_python import fit_from_python

    return fit_from_python(configs, name, runs, ckpt_path, settings)
