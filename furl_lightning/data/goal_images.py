"""Goal images: a picture of the user's, or the frame of a scripted expert's first success, for each agent."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from furl_lightning.envs.episodes import goal_image
from furl_lightning.envs.hosted import oriented
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import Agent
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
LARGEST = 8192
"""Height and width in pixels of a picture of the user's, at most."""
PLAIN = 2.0
"""Standard deviation of a colour over a picture, of 255, below which nothing is to be seen on it."""


def read_goal_images(files: Mapping[str, str], settings: SimulatorSettings) -> dict[str, np.ndarray]:
    """The goal images that the user gives, uint8 [size, size, 3], by task; of the size that is drawn, and mirrored or
    with swapped channels as frames are.

    Raises:
        BadInput: there is no such file; or it is no picture, not square, too small, transparent, or of one colour.
    """
    return {
        task: oriented(read_picture(path, settings.size, f"data.goal_images.{task}"), settings)
        for task, path in files.items()
    }


def read_picture(path: str, size: int, option: str) -> np.ndarray:
    """A square picture, uint8 [size, size, 3], out of a file; a larger one is resized (bicubic).

    Args:
        path: the file, seen from the current folder.
        size: height and width, pixels.
        option: that it was given by, for the message.

    Raises:
        BadInput: see :func:`read_goal_images`.
    """
    if not os.path.isfile(path):
        raise BadInput(f"{option}: there is no file '{path}', seen from {Path.cwd()}")
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as file:
            warnings.simplefilter("ignore")  # of a size that is refused below
            if max(file.size) > LARGEST:
                raise BadInput(f"{option}: {path} must be at most {LARGEST} pixels high and wide, not {_size(file)}")
            upright = ImageOps.exif_transpose(file)  # as every viewer shows it
            deep = upright.mode[0] in "IF"  # more than 8 bits
            opaque = upright.convert("RGBA").getchannel("A").getextrema()[0] == 255
            picture = upright.convert("RGB")
    except BadInput:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise whatever they like
        if isinstance(error, OSError) and error.strerror:
            raise BadInput(f"{option}: {path} cannot be read: {error.strerror}") from None
        raise BadInput(
            f"{option}: {path} is damaged or no picture; give a PNG, JPEG, WebP or BMP that a viewer shows"
        ) from None
    if deep or not opaque:
        wrong = "has more than 8 bits a channel" if deep else "is transparent in places"
        raise BadInput(f"{option}: {path} {wrong}; save it as an ordinary RGB picture")
    if picture.width != picture.height or picture.width < size:
        raise BadInput(
            f"{option}: {path} must be square and at least {size}x{size} pixels, as this run's frames are, "
            f"not {_size(picture)}"
        )
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    if pixels.std(axis=(0, 1)).max() < PLAIN:
        raise BadInput(f"{option}: {path} must show the task done, but is of one colour")
    return pixels


def _size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height} (width x height)"


def goal_images(
    agents: Sequence[Agent], settings: SimulatorSettings, given: Mapping[str, np.ndarray]
) -> dict[int, np.ndarray]:
    """Goal images, uint8 [size, size, 3], by the agent's place in the population.

    An agent of a task whose picture is ``given`` has that; of the others one whose expert fails has none.
    """
    images = {}
    for place, agent in enumerate(agents):
        image = given[agent.task] if agent.task in given else goal_image(agent.task, agent.seed, settings)
        if image is None:
            logging.getLogger(__name__).warning(
                "no scripted expert succeeds on %s: no goal image, so no alignment before its first success", agent
            )
        else:
            images[place] = image
    return images


def embed_goal_images(vlm: VLM, images: Mapping[int, np.ndarray], agents: int) -> Tensor:
    """Embeddings of :func:`goal_images`, float32 [agents, D] on the CPU; NaN for an agent without goal image."""
    embedding = torch.full((agents, vlm.width), math.nan)
    if images:
        embedding[list(images)] = vlm.encode_images(torch.from_numpy(np.stack(list(images.values())))).cpu()
    return embedding


def save_goal_images(images: Mapping[int, np.ndarray], agents: Sequence[Agent], folder: Path) -> None:
    """Leave :func:`goal_images` as PNG in a folder, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, image in images.items():
        Image.fromarray(image).save(folder / f"{agents[place].task}-{agents[place].seed}.png")
