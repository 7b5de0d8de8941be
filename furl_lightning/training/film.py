"""Episodes to look at: video files and film strips, with instruction, step and rewards beside the picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tensordict import TensorDict

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.data.policy import DeterministicPolicy, SomeAgents
from furl_lightning.envs.episodes import Episode, play
from furl_lightning.envs.population import shrink
from furl_lightning.envs.simulators import make_simulator
from furl_lightning.pictures import FRAME_SIZE
from furl_lightning.tasks import Agent
from furl_lightning.training.evaluation import RANDOM_GOAL_SEED_OFFSET
from furl_lightning.training.module import FuRLModule
from furl_lightning.vlm.prompts import text_of

FILM_SIZE = 2 * FRAME_SIZE
"""Side of a video's picture, pixels, whatever the size of the frames; a strip's is half of it."""
BAND = 88
"""Height in pixels of the band of text and reward curve below a video's picture."""
GREEN, GREY, BLUE, WHITE = (90, 200, 110), (120, 120, 130), (110, 170, 250), (235, 235, 235)


@dataclass
class Film:
    """One episode with what is written beside its frames."""

    agent: Agent
    instruction: str
    episode: Episode
    vlm_reward: np.ndarray | None
    """Of each frame, float32 [T]; None without a VLM."""

    @property
    def task_reward(self) -> np.ndarray:
        """The sparse task reward at each frame, [T]: success - 1."""
        return self.episode.success.astype(np.float32) - 1.0


class Studio:
    """Films evaluation's first episode of some agents, in simulators of its own.

    Args:
        module: the learner; its weights of the moment act.
        data: the population, its instructions, goal mode and picture.
        rows: places in the population of the agents to film.
    """

    def __init__(self, module: FuRLModule, data: FuRLDataModule, rows: Sequence[int]) -> None:
        self.module, self.data, self.rows = module, data, rows
        agents, settings = data.agents, data.simulators
        offset = RANDOM_GOAL_SEED_OFFSET if settings.goal == "random" else 0
        visible = replace(settings, render=settings.render or "fast")
        self._simulators = {r: make_simulator(agents[r].task, agents[r].seed + offset, visible) for r in rows}
        self._start = {row: simulator.random_state() for row, simulator in self._simulators.items()}

    def film(self, row: int, frame_steps: Container[int]) -> Film:
        """Play an agent's episode and keep the frames after the given numbers of steps; the same one every time."""
        player = DeterministicPolicy(self.module.built.evaluated_agent, self.data.frame_stack())
        policy = SomeAgents(player, [row], len(self.data.agents))
        simulator = self._simulators[row]

        action = np.zeros(simulator.settings.action_dim, np.float32)

        def act(step: int, observation: np.ndarray) -> np.ndarray:
            nonlocal action
            if step % simulator.settings.action_repeat:
                return action
            state = TensorDict({"observation": torch.from_numpy(np.float32(observation))[None]}, [1])
            if self.data.pixel_size is not None:
                state["frame"] = shrink(torch.from_numpy(simulator.frame())[None], self.data.pixel_size)
                state["episode_step"] = torch.full((1, 1), step)
            action = policy(state)["action"][0].numpy()
            return action

        simulator.set_random_state(self._start[row])
        episode = play(simulator, act, frame_steps)
        reward = None
        if self.module.vlm is not None:
            reward = self.module.frame_reward(row, torch.from_numpy(episode.frames)).numpy()
        return Film(self.data.agents[row], text_of(self.data.instructions[row]), episode, reward)

    def close(self) -> None:
        """Free the renderers."""
        for simulator in self._simulators.values():
            simulator.close()


def strip(film: Film, count: int = 8) -> np.ndarray:
    """A film strip: ``count`` frames from first to last, uint8 [H, W, 3], each with its step and rewards."""
    episode = film.episode
    indices = np.unique(np.linspace(0, len(episode.step) - 1, count).round().astype(int))
    side = FRAME_SIZE
    sheet = Image.new("RGB", (len(indices) * (side + 4) - 4, side + 62), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 3), f"{film.agent}: {film.instruction}", WHITE, _font(15))
    for place, i in enumerate(indices):
        left = place * (side + 4)
        sheet.paste(_picture(episode.frames[i], side), (left, 24))
        if episode.success[i]:
            draw.rectangle((left, 24, left + side - 1, 23 + side), outline=GREEN, width=3)
        caption = f"step {episode.step[i]}"
        if film.vlm_reward is not None:
            caption += f"   VLM {film.vlm_reward[i]:+.2f}"
        draw.text((left + 6, side + 26), caption, GREEN if episode.success[i] else WHITE, _font(14))
        draw.text((left + 6, side + 41), "success" if episode.success[i] else "", GREEN, _font(12))
    return np.asarray(sheet)


def pictures(film: Film) -> Iterator[np.ndarray]:
    """A video's pictures, uint8 [H, W, 3]: the frame, and below it instruction, step and rewards."""
    episode, reward = film.episode, film.vlm_reward
    side = FILM_SIZE
    for i in range(len(episode.step)):
        sheet = Image.new("RGB", (side, side + BAND), (24, 24, 28))
        sheet.paste(_picture(episode.frames[i], side))
        draw = ImageDraw.Draw(sheet)
        draw.text((8, side + 4), f"{film.agent}: {film.instruction}", WHITE, _font(14))
        caption = f"step {episode.step[i]:3d}   task reward {film.task_reward[i]:+.0f}"
        if reward is not None:
            caption += f"   VLM reward {reward[i]:+.3f}"
            _curve(draw, reward, i, (8, side + 46, side - 8, side + BAND - 6))
        draw.text((8, side + 23), caption, GREEN if episode.success[i] else WHITE, _font(14))
        if episode.success[i]:
            draw.rectangle((0, 0, side - 1, side - 1), outline=GREEN, width=4)
        yield np.asarray(sheet)


def _curve(draw: ImageDraw.ImageDraw, values: np.ndarray, now: int, box: tuple[int, int, int, int]) -> None:
    """The VLM reward over the whole episode, up to now in colour."""
    left, top, right, bottom = box
    low, high = float(values.min()), float(values.max())
    x = np.linspace(left, right, len(values))
    y = bottom - (values - low) / max(high - low, 1e-6) * (bottom - top)
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    if len(points) > 1:
        draw.line(points, GREY, 1)
        draw.line(points[: now + 1] if now else points[:1] * 2, BLUE, 2)
    draw.ellipse((points[now][0] - 3, points[now][1] - 3, points[now][0] + 3, points[now][1] + 3), fill=BLUE)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> Path:
    """Write frames as ``path`` with the ending .mp4 where the extra ``video`` is installed, else animated .webp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = np.stack(list(frames))
    if importlib.util.find_spec("imageio_ffmpeg"):
        path = path.with_suffix(".mp4")
        iio.imwrite(path, video, plugin="FFMPEG", fps=fps, quality=7, macro_block_size=4)
    else:
        path = path.with_suffix(".webp")
        iio.imwrite(path, video, plugin="pillow", duration=round(1000 / fps), quality=70, loop=0)
    return path


def _picture(frame: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def even_steps(count: int, length: int) -> list[int]:
    """``count`` numbers of steps from the first to the last of an episode of so many."""
    return [round(step) for step in np.linspace(0, length, count)]
