"""Environments looked at before a run: their sizes, whether they keep the contract, whether they can be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from furl_lightning.envs.hosted import Hosted, whole_number
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.simulator import SimulatorSettings, Step
from furl_lightning.envs.simulators import make_environment
from furl_lightning.tasks import EPISODE_STEPS, METAWORLD
from furl_lightning.utils.errors import BadInput

STEPS = 50
"""Of the episode that is played twice, at most."""


def longest(simulator: str, options: dict[str, Any], tasks: Sequence[str]) -> int:
    """Steps of the longest episode that all these tasks have.

    Raises:
        BadInput: an environment does not say, or cannot be made.
    """
    if simulator == METAWORLD:
        return EPISODE_STEPS
    steps = []
    for task in dict.fromkeys(tasks):
        environment = make_environment(simulator, options, task)
        steps.append(whole_number(environment, "episode_steps", f"{type(environment).__name__} ({task})"))
        environment.close()
    return min(steps)


def with_sizes(settings: SimulatorSettings, tasks: Sequence[str]) -> SimulatorSettings:
    """The settings with the sizes of the tasks' observations and actions; an environment of each is made for that.

    Raises:
        BadInput: one does not say its sizes, cannot be made, or has shorter episodes than are asked for; or actions
            of several sizes; or Meta-World, whose tasks have the same cameras, lacks the one that is named.
    """
    if settings.simulator == METAWORLD:
        if settings.camera is not None:
            MetaWorld(tasks[0], 0, replace(settings, render=None)).close()
        return settings
    observation_dim, action_dims = 0, {}
    for task in dict.fromkeys(tasks):
        environment = make_environment(settings.simulator, settings.options, task)
        name = f"{type(environment).__name__} ({task})"
        try:
            observation_dim = max(observation_dim, whole_number(environment, "observation_dim", name))
            action_dims[task] = whole_number(environment, "action_dim", name)
            longest = whole_number(environment, "episode_steps", name)
        finally:
            environment.close()
        if settings.episode_steps > longest:
            raise BadInput(
                f"data.env.episode_steps must be at most {longest}, the steps of an episode of {name}, not "
                f"{settings.episode_steps}"
            )
    if len(set(action_dims.values())) > 1:
        sizes = ", ".join(f"{task} {dim}" for task, dim in action_dims.items())
        raise BadInput(f"all data.tasks must have actions of one size, but the numbers in an action are: {sizes}")
    return replace(settings, observation_dim=observation_dim, action_dim=next(iter(action_dims.values())))


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
