"""Trained policies to act with, out of a checkpoint alone: no VLM, no GPU, no run folder.

One agent's actor is taken out of its population. Nothing that a checkpoint names is imported or run: its tensors are
loaded as tensors, and its settings are read as far as they say who the agents are and what they see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor, nn

from furl_lightning.agents.encoder import STACK, ConvEncoder
from furl_lightning.agents.networks import Actor
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.envs.simulators import task_names
from furl_lightning.tasks import METAWORLD, Agent
from furl_lightning.training.identity import INSTRUCTIONS, frame_size
from furl_lightning.training.saved_settings import NoSettings, is_our_simulator, modules_of, safe_settings
from furl_lightning.training.trained import other_version, read, settings_of
from furl_lightning.utils.construct import construct
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm.prompts import text_of

GOAL = 3
"""Entries at the observation's end that hold the goal's position."""

Array = TypeVar("Array", np.ndarray, Tensor)


class Network(nn.Module):
    """One agent's deterministic policy as a module: float32 [B, obs], or uint8 [B, 3, S, S, 3], -> actions
    [B, action].

    Args:
        actor: of this agent alone.
        encoder: what the actor sees frames through; None: it sees numbers.
        hides_goal: put zeros in the place of the goal, as in the training with fixed goals.
    """

    def __init__(self, actor: Actor, encoder: ConvEncoder | None, hides_goal: bool) -> None:
        super().__init__()
        self.actor, self.encoder, self.hides_goal = actor, encoder, hides_goal

    def forward(self, observation: Tensor) -> Tensor:
        """The actions tanh(mean), in [-1, 1]."""
        if self.encoder is not None:
            return self.actor.deterministic(self.encoder(observation[None]))[0]
        if self.hides_goal:
            observation = F.pad(observation[:, :-GOAL], (0, GOAL))
        return self.actor.deterministic(observation[None])[0]


class Policy:
    """One agent's deterministic policy: ``policy(observation)`` is its action.

    It remembers nothing between two calls. With fixed goals Meta-World's goal was hidden in training, so whatever the
    last three entries of an observation hold is taken for zeros; with random goals they must hold the goal's position.

    Attributes:
        agent: its task and seed.
        instruction: the sentence that it was trained with.
        env_steps: environment steps that it was trained for.
        simulators: what its simulators were like: goal mode, length of an episode, and the picture it sees, if any.
        pixel_size: side of the frames that it sees; None: it sees numbers.
        network: the same as a module, of a batch at a time; to be moved to another device, if you like.
    """

    def __init__(
        self,
        network: Network,
        agent: Agent,
        instruction: str,
        env_steps: int,
        simulators: SimulatorSettings,
        pixel_size: int | None,
    ) -> None:
        self.network, self.agent, self.instruction, self.env_steps = network, agent, instruction, env_steps
        self.simulators, self.pixel_size = simulators, pixel_size

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of one observation: numbers, in Meta-World [39], or the last three frames, oldest first, [3, S, S, 3]."""
        return (self.simulators.observation_dim,) if self.pixel_size is None else (STACK, *(self.pixel_size,) * 2, 3)

    @torch.no_grad()
    def __call__(self, observation: Array) -> Array:
        """The action in [-1, 1] for an observation, or [B, action] for B of them; an array for an array, or a tensor.

        Raises:
            ValueError: it is of another shape, or frames are no uint8.
        """
        given: Any = observation
        as_tensor = isinstance(given, Tensor)
        values: Tensor = given if as_tensor else torch.from_numpy(np.array(given, order="C"))
        one: tuple[int, ...] = self.observation_shape
        if values.shape not in (one, (len(values) if values.ndim else 0, *one)):
            what = "numbers" if self.pixel_size is None else "frames: the last ones, oldest first"
            raise ValueError(
                f"an observation of {self} is {list(one)} {what}, and several are [B, {str(list(one))[1:]}; "
                f"not {list(values.shape)}"
            )
        if self.pixel_size is not None and values.dtype != torch.uint8:
            raise ValueError(f"frames are uint8, from 0 to 255; not {values.dtype}")
        device = next(self.network.parameters()).device
        inputs = values.reshape(-1, *one).to(device, torch.float32 if self.pixel_size is None else torch.uint8)
        action: Any = self.network(inputs).reshape(*values.shape[: values.ndim - len(one)], self.simulators.action_dim)
        return action.to(values.device) if as_tensor else action.cpu().numpy()

    def __repr__(self) -> str:
        return f"the policy of {self.agent}"


class Policies:
    """The policies of a checkpoint: ``policies["drawer-close", 0]``, or ``["drawer-close"]`` where it has one seed.

    Args:
        path: a checkpoint, or the folder of a run, whose ``last.ckpt`` is taken.

    Raises:
        BadInput: no such file, no checkpoint of furl-fit, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._saved = read(path)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(FuRLDataModule, "data")
        try:
            saved = {"data": _without_foreign(settings_of(self.path, self._saved)["data"], self._saved)}
            settings = safe_settings(saved, parser, self.path)
            data: FuRLDataModule = construct(FuRLDataModule, parser.parse_object(settings).data)
        except (ArgumentError, NoSettings, KeyError, TypeError) as error:
            raise other_version(self.path, self._saved, str(error)) from error
        self._data = data
        env = settings_of(self.path, self._saved)["data"].get("env", {})
        self._simulator = {"simulator": env.get("simulator", METAWORLD), "options": env.get("options") or {}}

    @property
    def agents(self) -> list[Agent]:
        """Whose policies there are."""
        return self._data.agents

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter((agent.task, agent.seed) for agent in self.agents)

    def __len__(self) -> int:
        return len(self.agents)

    def __getitem__(self, key: str | tuple[str, int]) -> Policy:
        """The policy of a task and seed; see :meth:`find`."""
        return self.find(*((key,) if isinstance(key, str) else key))

    def find(self, task: str | None = None, seed: int | None = None) -> Policy:
        """The one policy of a task and seed, where None stands for any.

        Raises:
            BadInput: there is none, or there are several; names those that there are.
            UnknownTask: a name that is no task.
        """
        names = None if task is None else task_names(self._data.env_settings.simulator, task)
        rows = [
            row
            for row, agent in enumerate(self.agents)
            if (names is None or agent.task in names) and seed in (None, agent.seed)
        ]
        if len(rows) != 1:
            which = "several such agents; give task and seed" if rows else "no such agent"
            raise BadInput(f"{self.path} has {which}; it has: {', '.join(map(str, self.agents))}")
        return self._policy(rows[0])

    def _policy(self, row: int) -> Policy:
        data = self._data
        weights: dict[str, Tensor] = self._saved["state_dict"]
        judged = next((f"learner.{name}." for name in ("vlm_agent", "sac_agent") if _has(weights, name)), "")
        of_actor, of_encoder = (_of_one(weights, f"{judged}{part}.", row) for part in ("actor", "encoder"))
        hidden = [bias.numel() for name, bias in of_actor.items() if name.startswith("net.") and name.endswith("bias")]
        try:
            encoder = None if data.pixel_size is None else ConvEncoder(1, data.pixel_size)
            sees, acts = of_actor["net.layers.0.weight"].shape[-2], of_actor["mean.bias"].shape[-1]
            actor = Actor(1, sees if encoder is None else encoder.width, acts, hidden)
            actor.load_state_dict(of_actor)
            if encoder is not None:
                encoder.load_state_dict(of_encoder)
        except (IndexError, KeyError, RuntimeError) as error:
            raise other_version(self.path, self._saved, str(error)) from error
        simulators = data.env_settings.simulators(data.pixel_size is not None)
        simulators = replace(simulators, action_dim=acts, **self._simulator)
        if encoder is None:
            simulators = replace(simulators, observation_dim=sees)
        if simulators.render is not None:
            simulators = replace(simulators, size=frame_size(self._saved.get("identity", {})))
        network = (
            Network(actor, encoder, hides_goal=simulators.simulator == METAWORLD and simulators.goal == "fixed")
            .requires_grad_(False)
            .eval()
        )
        env_steps = int(self._saved["FuRLDataModule"]["env_steps"])
        instruction = text_of(data.instructions[row])
        return Policy(network, data.agents[row], instruction, env_steps, simulators, data.pixel_size)


def _has(weights: dict[str, Tensor], agent: str) -> bool:
    return any(name.startswith(f"learner.{agent}.") for name in weights)


def _of_one(weights: dict[str, Tensor], prefix: str, row: int) -> dict[str, Tensor]:
    """One agent's parameters of a part, as a population of its own."""
    return {
        name.removeprefix(prefix): values[row : row + 1].clone()
        for name, values in weights.items()
        if name.startswith(prefix)
    }


def _without_foreign(data: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """A data module's settings that say who the agents are without the simulator's class, where that is not ours.

    Raises:
        KeyError, TypeError: they are none.
    """
    env = data.get("env") or {}
    if is_our_simulator(env.get("simulator", METAWORLD)) and not modules_of(env.get("options")):
        return data
    tasks = [data["tasks"]] if isinstance(data["tasks"], str) else data["tasks"]
    texts = str(saved.get("identity", {}).get(INSTRUCTIONS)).split(" | ")[:: len(data["seeds"])]
    prompts = dict(zip(tasks, texts, strict=False)) | (data.get("prompts") or {})
    return {**data, "prompts": prompts, "env": {**env, "simulator": "Gymnasium", "options": {}}}
