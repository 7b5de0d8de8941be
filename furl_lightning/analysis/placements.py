"""Episodes and goal images of agents' placements, played and drawn by several processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.pool import Pool

import numpy as np
import torch
from tqdm import tqdm

from furl_lightning.envs.episodes import Episode, Manner, NoExpert, goal_image, record
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import Agent

EVERY = 2
"""Environment steps between frames."""
SKIPPED = {"fixed": 0, "random": 1}
"""Placements of a seed that are passed over, by goal mode: the first with random goals is the one with fixed goals."""


def worker_pool(processes: int) -> Pool:
    """Processes that play; spawned, since OpenGL does not survive a fork."""
    return multiprocessing.get_context("spawn").Pool(processes)


def play(
    pool: Pool, agents: Iterable[Agent], settings: SimulatorSettings, manners: Sequence[Manner]
) -> Iterator[tuple[Agent, Manner, Episode]]:
    """An episode of each agent's placement in each manner, in this order; a bar on a terminal shows how far it is.

    Without a scripted expert there are random episodes only.

    With random goals the placement is the second of the agent's seed. States follow from task, seed and manner
    alone: played again for another picture, they are the same.
    """
    takes = [(agent, settings, manner) for agent in agents for manner in manners]
    episodes = tqdm(pool.imap(_play, takes), "episodes", len(takes), disable=not sys.stderr.isatty())
    for (agent, _, manner), episode in zip(takes, episodes, strict=True):
        if episode is not None:
            yield agent, manner, episode


def goal_images(pool: Pool, agents: Sequence[Agent], settings: SimulatorSettings) -> dict[Agent, np.ndarray]:
    """The goal image of each agent's placement in :func:`play`, uint8 [size, size, 3]; none where the expert fails."""
    images = pool.imap(_goal_image, [(agent, settings) for agent in agents])
    return {agent: image for agent, image in zip(agents, images, strict=True) if image is not None}


def _play(take: tuple[Agent, SimulatorSettings, Manner]) -> Episode | None:
    torch.set_num_threads(1)
    agent, settings, manner = take
    try:
        return record(agent.task, agent.seed, settings, manner, EVERY, skipped=SKIPPED[settings.goal])
    except NoExpert:
        return None


def _goal_image(take: tuple[Agent, SimulatorSettings]) -> np.ndarray | None:
    torch.set_num_threads(1)
    agent, settings = take
    return goal_image(agent.task, agent.seed, settings, SKIPPED[settings.goal])
