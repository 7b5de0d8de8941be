"""Lightning's trainer as one process on one device, whatever the environment's variables say.

Schedulers and launchers (Slurm, LSF, MPI, torchrun, Kubeflow ...) set variables for all that they start, and Lightning
would take runs that merely go on side by side for ranks of one job, and requeue them in a way of its own.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import Trainer

from furl_lightning.utils.construct import construct, construct_class
from furl_lightning.utils.errors import BadInput


class OneProcess(LightningEnvironment):
    """The environment of a process that is alone. Where Lightning is given one, it looks for no other."""

    @property
    def creates_processes_externally(self) -> bool:
        """Whether Lightning is to start none."""
        return True

    def local_rank(self) -> int:
        """Zero, as all ranks."""
        return 0

    def node_rank(self) -> int:
        """Zero, as all ranks."""
        return 0

    def teardown(self) -> None:
        """Leave the variables as they are."""


def single_device_trainer(arguments: dict[str, Any], folder: Path) -> Trainer:
    """A Trainer that is on its own; this process is of rank zero from here on.

    Args:
        arguments: of the Trainer, as a parser gives them.
        folder: of the run. In the current one, Lightning's own, it would load a stray ``hpc_ckpt_1.ckpt`` under Slurm.

    Raises:
        BadInput: a plugin is for a job of several processes.
    """
    plugins = arguments.get("plugins") or []
    plugins = [construct_class(plugin) for plugin in (plugins if isinstance(plugins, list) else [plugins])]
    for plugin in plugins:
        if isinstance(plugin, ClusterEnvironment) and type(plugin) is not LightningEnvironment:
            raise BadInput(
                f"trainer.plugins: {type(plugin).__name__} has no effect here; leave it out: a population trains "
                "in one process, whatever a scheduler's variables say, see docs/cluster.md"
            )
    plugins = [*(plugin for plugin in plugins if not isinstance(plugin, ClusterEnvironment)), OneProcess()]
    # When it was imported, Lightning took for a rank what RANK, LOCAL_RANK, SLURM_PROCID and the like say.
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # What is left out Lightning would take from PL_TRAINER_FAST_DEV_RUN and the like.
    defaults = {name: parameter.default for name, parameter in inspect.signature(Trainer).parameters.items()}
    trainer: Trainer = construct(Trainer, {**defaults, **arguments}, plugins=plugins, default_root_dir=folder)
    return trainer
