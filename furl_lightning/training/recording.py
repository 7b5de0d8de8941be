"""Observations that a policy meets: an episode in the simulator that it was trained in."""

from __future__ import annotations

import numpy as np
import torch

from furl_lightning.agents.encoder import FrameStack
from furl_lightning.envs.examination import sizes_of, with_sizes
from furl_lightning.envs.population import shrink
from furl_lightning.envs.simulators import make_simulator
from furl_lightning.training.policies import Policy


def record(policy: Policy, steps: int) -> np.ndarray:
    """The first observations of an episode in which the policy acts, [steps, ...], as it takes them.

    At most an episode's; with fixed goals the placement is the training's.
    """
    settings = policy.simulators
    if policy.pixel_size is not None:
        settings = with_sizes(settings, sizes_of(settings.simulator, settings.options, [policy.agent.task]))
    simulator, stack = make_simulator(policy.agent.task, policy.agent.seed, settings), FrameStack()
    try:
        state, recorded = simulator.reset(), []
        for step in range(min(steps, settings.episode_actions)):
            observation = state
            if policy.pixel_size is not None:
                frame = shrink(torch.from_numpy(simulator.frame())[None], policy.pixel_size)
                observation = stack.push(frame, first=step == 0)[0].numpy()
            recorded.append(observation)
            state = simulator.step(policy(observation)).observation
        return np.stack(recorded)
    finally:
        simulator.close()
