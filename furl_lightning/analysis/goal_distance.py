"""How well VLMs' distances to the goal image order episodes, one VLM beside the other.

The goal image is that of the episode's own placement, and the order is that of Meta-World's dense reward: on noisy
experts' episodes up to the first success, and on whole random ones. ``furl-probe`` measures the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from furl_lightning.analysis.placements import goal_images, play, worker_pool
from furl_lightning.analysis.probe import ScoredEpisode, dense_correlation
from furl_lightning.envs.episodes import Manner
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.envs.simulator import GoalMode
from furl_lightning.tasks import Agent
from furl_lightning.vlm import VLM

MANNERS: tuple[Manner, ...] = ("noisy", "random")
GoalDistance = Mapping[str, Mapping[Manner, float]]
"""By task and manner: the mean rank correlation over seeds; NaN where none has a goal image and an order."""


def goal_distances(
    vlms: Sequence[VLM], tasks: Sequence[str], seeds: Sequence[int], goal: GoalMode, processes: int = 2
) -> list[GoalDistance]:
    """Each VLM's, on the picture that it asks for: the same episodes, drawn once for all that ask for the same.

    Args:
        vlms: any number.
        tasks: names from the catalogue.
        seeds: of the placements; with random goals each seed's second, since the first is that of fixed goals.
        goal: goal mode.
        processes: that play and draw.
    """
    agents = [Agent(task, seed) for task in tasks for seed in seeds]
    pictures = [EnvSettings(goal).simulators(True, vlm.render, vlm.picture_size) for vlm in vlms]
    scored: list[dict[str, dict[Manner, list[ScoredEpisode]]]] = [
        {task: {manner: [] for manner in MANNERS} for task in tasks} for _ in vlms
    ]
    with worker_pool(processes) as pool:
        for picture in dict.fromkeys(pictures):
            places = [place for place, asked in enumerate(pictures) if asked == picture]
            images = goal_images(pool, agents, picture)
            for agent, manner, episode in play(pool, list(images), picture, MANNERS):
                frames = torch.from_numpy(np.concatenate([images[agent][None], episode.frames]))
                episode.frames = episode.frames[:0]  # many episodes' frames are more than a machine may hold
                for place in places:
                    goal_embedding, embedding = vlms[place].encode_images(frames).cpu().split([1, len(frames) - 1])
                    episode_seen = ScoredEpisode(agent.task, episode, embedding, np.empty(0))
                    scored[place][agent.task][manner].append(episode_seen.closeness(goal_embedding))
    return [
        {task: {manner: dense_correlation(episodes, manner) for manner in MANNERS} for task, episodes in of_vlm.items()}
        for of_vlm in scored
    ]
