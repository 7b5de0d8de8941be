"""Goal images: the frame of a scripted expert's first success, for each agent, and its embedding."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from furl_lightning.envs.episodes import goal_image
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import Agent
from furl_lightning.vlm import VLM


def goal_images(agents: Sequence[Agent], settings: SimulatorSettings) -> dict[int, np.ndarray]:
    """Goal images, uint8 [H, W, 3], by the agent's place in the population; an agent whose expert fails has none."""
    images = {}
    for place, agent in enumerate(agents):
        image = goal_image(agent.task, agent.seed, settings)
        if image is None:
            logging.getLogger(__name__).warning(
                "no scripted expert succeeds on %s: no goal image, so no alignment before its first success", agent
            )
        else:
            images[place] = image
    return images


def embed_goal_images(
    vlm: VLM, agents: Sequence[Agent], settings: SimulatorSettings, folder: Path | None = None
) -> Tensor:
    """The goal images' embeddings, float32 [A, D] on the CPU; NaN for an agent without goal image.

    Args:
        vlm: embeds them.
        agents: A agents.
        settings: of the simulators.
        folder: where the images are left as PNG, to be looked at.
    """
    images = goal_images(agents, settings)
    embedding = torch.full((len(agents), vlm.width), math.nan)
    if images:
        embedding[list(images)] = vlm.encode_images(torch.from_numpy(np.stack(list(images.values())))).cpu()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for place, image in images.items():
            Image.fromarray(image).save(folder / f"{agents[place].task}-{agents[place].seed}.png")
    return embedding
