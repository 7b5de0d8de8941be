"""Environments looked at before a run: their sizes, whether they keep the contract, whether they can be replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from furl_lightning.envs.hosted import Hosted, named, whole_number
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.simulator import ACTION_DIM, OBS_DIM, SimulatorSettings, Step
from furl_lightning.envs.simulators import make_environment
from furl_lightning.tasks import EPISODE_STEPS, METAWORLD
from furl_lightning.utils.errors import BadInput

STEPS = 50
"""Of the episode that is played twice, at most."""


class Sizes(NamedTuple):
    """What an environment says of itself."""

    name: str
    observation_dim: int
    action_dim: int
    episode_steps: int


def sizes_of(simulator: str, options: dict[str, Any], tasks: Sequence[str]) -> dict[str, Sizes]:
    """Each task's sizes; an environment of each is made to ask it, but for Meta-World.

    Raises:
        BadInput: one does not say its sizes, or cannot be made.
    """
    if simulator == METAWORLD:
        return {task: Sizes(f"{simulator} ({task})", OBS_DIM, ACTION_DIM, EPISODE_STEPS) for task in tasks}
    sizes = {}
    for task in dict.fromkeys(tasks):
        environment = make_environment(simulator, options, task)
        name = named(environment, task)
        try:
            sizes[task] = Sizes(name, *(whole_number(environment, size, name) for size in Sizes._fields[1:]))
        finally:
            environment.close()
    return sizes


def with_sizes(settings: SimulatorSettings, sizes: Mapping[str, Sizes]) -> SimulatorSettings:
    """The settings with the sizes of a population's observations and actions.

    Args:
        settings: of its simulators.
        sizes: of its tasks, from :func:`sizes_of`.

    Raises:
        BadInput: a task has shorter episodes than are asked for; or actions are of several sizes; or Meta-World, whose
            tasks have the same cameras, lacks the one that is named.
    """
    for size in sizes.values():
        if settings.episode_steps > size.episode_steps:
            raise BadInput(
                f"data.env.episode_steps must be at most {size.episode_steps}, the steps of an episode of "
                f"{size.name}, not {settings.episode_steps}"
            )
    if len({size.action_dim for size in sizes.values()}) > 1:
        numbers = ", ".join(f"{task} {size.action_dim}" for task, size in sizes.items())
        raise BadInput(f"all data.tasks must have actions of one size, but the numbers in an action are: {numbers}")
    if settings.simulator == METAWORLD and settings.camera is not None:
        MetaWorld(next(iter(sizes)), 0, replace(settings, render=None)).close()
    dims = {size.observation_dim for size in sizes.values()}
    return replace(settings, observation_dim=max(dims), action_dim=next(iter(sizes.values())).action_dim)


def can_be_replayed(settings: SimulatorSettings, tasks: Sequence[str]) -> bool:
    """Play a short episode of each task, another, and the first again; whether its first and last time are the same.

    A picture is drawn at the episode's beginning and end, if the settings have one.

    Raises:
        BadInput: an environment does not keep the contract.
    """
    if settings.simulator == METAWORLD:
        return True
    replays = [_replays(settings, task) for task in dict.fromkeys(tasks)]  # each is looked at
    return all(replays)


def _replays(settings: SimulatorSettings, task: str) -> bool:
    random = np.random.default_rng(0)
    steps = min(STEPS, settings.episode_steps)
    actions = random.uniform(-1, 1, (2, steps, settings.action_dim)).astype(np.float32)
    environment = make_environment(settings.simulator, settings.options, task)
    simulator = Hosted(environment, task, 0, replace(settings, goal="random", action_repeat=1))
    try:
        start = simulator.random_state()
        first = _play(simulator, actions[0])
        if settings.render is not None:
            simulator.goal_image()
        simulator.expert(first[-1].observation)
        _play(simulator, actions[1])
        simulator.set_random_state(start)
        again = _play(simulator, actions[0])
    finally:
        simulator.close()
    return all(
        np.array_equal(one.observation, other.observation) and one[1:] == other[1:]
        for one, other in zip(first, again, strict=True)
    )


def _play(simulator: Hosted, actions: np.ndarray) -> list[Step]:
    draws = simulator.settings.render is not None
    steps = [Step(simulator.reset(), 0.0, False, False)]
    if draws:
        simulator.frame()
    steps += [simulator.one_step(action) for action in actions]
    if draws:
        simulator.frame()
    return steps
