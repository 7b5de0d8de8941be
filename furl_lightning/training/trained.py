"""A trained population out of a checkpoint file alone: no replay buffer, no run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from furl_lightning import __version__
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.simulators import task_names
from furl_lightning.tasks import Agent
from furl_lightning.training.identity import OtherRun, refuse_other_run
from furl_lightning.training.module import FuRLModule
from furl_lightning.training.saved_settings import NoSettings, safe_settings
from furl_lightning.utils.construct import construct
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM

FLAGS = {"model.vlm": "--vlm", "data.env.simulator": "--simulator"}
"""The options of commands that read a checkpoint, by furl-fit's."""


@dataclass
class Trained:
    """A run's learner at the moment of a checkpoint."""

    module: FuRLModule
    data: FuRLDataModule
    """What the run was set to; it collects nothing here."""
    env_steps: int
    """Environment steps made so far, per agent."""
    checkpoint: Path
    goal_embedding: Tensor | None = None
    """The goal images' embeddings, float32 [A, D]; NaN for an agent without one. None: there are no goal images."""

    @property
    def folder(self) -> Path:
        """The run's folder, or the checkpoint's own where that lies in none."""
        parent = self.checkpoint.parent
        return parent.parent if parent.name == "checkpoints" else parent

    def rows(self, tasks: list[str] | None) -> list[int]:
        """The agents of the given tasks, all where None, as places in the population.

        Raises:
            BadInput: a task that nobody was trained on.
            UnknownTask: a name that is no task.
        """
        trained = list(dict.fromkeys(agent.task for agent in self.agents))
        names = trained if not tasks else task_names(self.data.env_settings.simulator, tasks)
        missing = [task for task in names if task not in trained]
        if missing:
            raise BadInput(f"{self.checkpoint} has no agent for {', '.join(missing)}; it has: {', '.join(trained)}")
        return [i for i, agent in enumerate(self.agents) if agent.task in names]

    @property
    def agents(self) -> list[Agent]:
        """The population."""
        return self.data.agents


def load(path: Path, vlm: VLM | None = None, simulator: str | None = None) -> Trained:
    """Rebuild a run's learner from a checkpoint; the run may go on writing.

    Args:
        path: the file, or the folder of a run, whose ``last.ckpt`` is taken.
        vlm: the run's own VLM, where it is made already or lies elsewhere on this machine.
        simulator: the run's own ``data.env.simulator``, where that is no class of the package, or imports a module.

    Raises:
        BadInput: no such file, no checkpoint of furl-fit, one of another version, or another VLM.
    """
    path, saved = read(path)
    weights: dict[str, Tensor] = saved["state_dict"]
    shapes = {name: values.shape for name, values in weights.items()}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FuRLModule, "model")
    parser.add_class_arguments(FuRLDataModule, "data")
    given = {"model.vlm": vlm, "data.env.simulator": simulator}
    replaced = [option for option, value in given.items() if value is not None]
    try:
        settings = safe_settings(settings_of(path, saved), parser, path, replaced, FLAGS)
        if vlm is not None:
            settings.setdefault("model", {})["vlm"] = vlm
        if simulator is not None:
            settings.setdefault("data", {}).setdefault("env", {})["simulator"] = simulator
        config = parser.parse_object(settings)
    except (ArgumentError, NoSettings) as error:
        raise other_version(path, saved, str(error)) from error
    data: FuRLDataModule = construct(FuRLDataModule, config.data)
    module: FuRLModule = construct(FuRLModule, config.model)
    module.agree(data)
    module.build(data)
    ours = {name: values.shape for name, values in module.state_dict().items()}
    different = sorted(ours.items() ^ shapes.items(), key=str)
    if different:
        raise other_version(path, saved, f"{different[0][0]} differs")
    try:
        refuse_other_run(saved, module.identity(data), goes_on=False)
    except OtherRun as error:
        raise BadInput(f"{path}: {error}") from error
    module.load_state_dict(weights)
    if module.built.relay is not None:
        module.built.relay.load_state_dict(saved["relay"])
    module.settings = settings
    state = saved["FuRLDataModule"]
    return Trained(module.eval(), data, int(state["env_steps"]), path, state.get("goal_embedding"))


def read(path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint's file and its contents, on the CPU; nothing that is written in it is run.

    Args:
        path: the file, or the folder of a run, whose ``last.ckpt`` is taken.

    Raises:
        BadInput: no such file, or no checkpoint of furl-fit.
    """
    if path.is_dir():
        folder, path = path, path / "checkpoints" / "last.ckpt"
        if not path.is_file():
            raise BadInput(f"{folder} has no checkpoints/last.ckpt; give a checkpoint or the folder of a run")
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        raise BadInput(f"no checkpoint at {path}" + (f"; there are: {', '.join(there)}" if there else ""))
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        [values.shape for values in saved["state_dict"].values()]
        int(saved["FuRLDataModule"]["env_steps"])
    except Exception:
        raise BadInput(f"{path} is damaged or no checkpoint of furl-fit") from None
    return path, saved


def settings_of(path: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint's run, by ``model`` and ``data``; of one without any those in its run's config.yaml.

    They may be a stranger's: see :func:`~furl_lightning.training.saved_settings.safe_settings`.

    Raises:
        BadInput: there are none.
    """
    if saved.get("settings"):
        settings: dict[str, Any] = saved["settings"]
        return settings
    config = path.parent.parent / "config.yaml"
    try:
        written = yaml.safe_load(config.read_text())
        return {part: written[part] for part in ("model", "data")}
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        raise BadInput(
            f"{path} does not hold its run's settings, nor does {config}: it is of another version"
        ) from None


def other_version(path: Path, saved: dict[str, Any], difference: str) -> BadInput:
    """What to raise of a checkpoint that this version cannot make anything of."""
    difference = " ".join(difference.split())
    theirs = saved.get("version", "an older version")
    if theirs == __version__:
        return BadInput(f"{path} has been changed since furl-fit wrote it, and cannot be used like this: {difference}")
    return BadInput(f"{path} was written by furl_lightning {theirs}, this is {__version__}: {difference}")
