"""What a probe says in words: rewards and distances that are worth nothing, and a margin that leaves much unordered.

**No better than nonsense.** A direction in the space of embeddings that has nothing to do with the task may order its
frames well by luck: an arm's way is long and nearly straight there. So a reward's rank correlation with Meta-World's
dense reward is compared with that of the same VLM's cosine with :data:`NONSENSE`, on the same episodes, and the
distance to the goal image with the distance to images that have nothing to do with it: noise, and the goal images of
:data:`OTHERS`. It is called no better where at least a quarter of the sixteen (:data:`SHARE`) do as well: a good
measure that one of them reaches by luck is not, a worthless one, which lies anywhere among them, is in three cases of
four. This is a rank among controls, not a test: the sixteen resemble each other, noise above all, and a measure of
which nothing is said need not be good. One that beats them and yet is not above zero, what a constant reward has,
is called no better than none.

**Unordered.** The goal image orders two frames whose distances to it differ by more than ``l2_margin``, so no frame
within the margin is told from the goal itself. That is said where the margin is more than a third (:data:`LONG`) of
the way from the first frame to the goal image, or where more than a third of the frames before the first success
are within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from furl_lightning.analysis.probe import DISTANCE, ScoredEpisode, ScoredEpisodes, dense_correlation
from furl_lightning.envs.episodes import Manner
from furl_lightning.tasks import Agent
from furl_lightning.vlm import VLM

NONSENSE = (
    "play the piano",
    "bake a cake",
    "the weather is nice today",
    "a cat sleeps on a sofa",
    "two plus two is four",
    "sing a song about the sea",
    "read the newspaper",
    "a red bus in London",
    "write a letter to my aunt",
    "the moon is full tonight",
    "children play football",
    "an old castle in the fog",
    "drink a glass of milk",
    "he forgot his umbrella",
    "a violin concerto",
    "green apples are sour",
)
"""Sentences that are true of no frame and name nothing in one."""
OTHERS = tuple(
    Agent(task, 0)
    for task in (
        "coffee-button",
        "door-lock",
        "faucet-open",
        "hand-insert",
        "hammer",
        "lever-pull",
        "plate-slide",
        "shelf-place",
    )
)
"""Whose goal images stand for any other task's."""
GRAINS = (None, 32, 8, 3)
"""Of the noise: squares along a side of the image, each of a colour of its own; None: every pixel is one."""
JUDGED: tuple[Manner, ...] = ("noisy", "random")
"""Episodes on which rewards and distances are compared with nonsense."""
SHARE = 1 / 4
LONG = 1 / 3


def noise_images(size: int) -> dict[str, np.ndarray]:
    """Two images of noise of each grain, uint8 [size, size, 3], by what they are called; always the same."""
    random = np.random.default_rng(0)
    images = {}
    for squares in GRAINS:
        for number in (1, 2):
            side = squares or size
            cell = np.arange(size) * side // size
            colours = random.integers(0, 256, (side, side, 3), np.uint8)
            images[f"noise of {side} x {side} squares, {number}"] = colours[cell][:, cell]
    return images


@dataclass(frozen=True)
class Nonsense:
    """Embeddings, [width], of what has nothing to do with the tasks, by what it is called."""

    sentences: Mapping[str, Tensor]
    images: Mapping[str, Tensor]

    @classmethod
    def embed(cls, vlm: VLM, goals: Mapping[Agent, np.ndarray], size: int) -> Self:
        """By a VLM: the sentences, noise of a size in pixels, and the goal images of :data:`OTHERS`."""
        images = noise_images(size) | {_goal_image(agent.task): goals[agent] for agent in OTHERS if agent in goals}
        embedding = vlm.encode_images(torch.from_numpy(np.stack(list(images.values())))).cpu()
        sentences = {f'"{sentence}"': vlm.encode_texts([sentence])[0] for sentence in NONSENSE}
        return cls(sentences, dict(zip(images, embedding, strict=True)))


def remarks(task: str, rewards: Mapping[str, ScoredEpisodes], nonsense: Nonsense, l2_margin: float | None) -> list[str]:
    """Sentences on one task, none where there is nothing to say.

    Args:
        task: its name, with which they begin.
        rewards: its episodes by kind of reward, the distance to the goal image among them.
        nonsense: of the same VLM.
        l2_margin: of the goal image's pairs; None where nothing is learned from them.
    """
    images = {name: image for name, image in nonsense.images.items() if name != _goal_image(task)}
    lines = []
    rescored: Callable[[ScoredEpisode, Tensor], ScoredEpisode]
    for kind, episodes in rewards.items():
        if kind == DISTANCE:
            subject, other = "the distance to the goal image", "the distance to an image of something else"
            rescored, others = ScoredEpisode.closeness, images
        else:
            subject, other = f"the {kind} reward", "the cosine with a nonsense sentence"
            rescored, others = ScoredEpisode.likeness, dict(nonsense.sentences)
        for manner in JUDGED:
            of_manner = episodes.get(manner, [])
            by_luck = {
                name: dense_correlation({manner: [rescored(scored, embedding) for scored in of_manner]}, manner)
                for name, embedding in others.items()
            }
            where = f"{task}, {manner} episodes"
            lines += no_better(f"{where}: {subject}", dense_correlation(episodes, manner), other, by_luck)
            lines += no_order(f"{where}: {subject}", of_manner, manner)
    if l2_margin is not None:
        lines += unordered(task, rewards[DISTANCE].get("expert", []), l2_margin)
    return lines


def no_better(subject: str, value: float, other: str, by_luck: Mapping[str, float]) -> list[str]:
    """That a rank correlation is no better than those of ``by_luck``, with their names, or than none."""
    numbers = {name: number for name, number in by_luck.items() if not math.isnan(number)}
    as_good = [name for name, number in numbers.items() if number >= value]
    if as_good and len(as_good) >= SHARE * len(numbers):
        best = max(as_good, key=numbers.__getitem__)
        how_many = f"{len(as_good)} of {len(numbers)} do as well, {best} has {numbers[best]:.2f}"
        return [f"{subject} ({value:.2f}) is no better than {other}: {how_many}"]
    if value <= 0:
        return [f"{subject} ({value:.2f}) is no better than none: it does not rise with Meta-World's dense reward"]
    return []


def no_order(subject: str, episodes: Sequence[ScoredEpisode], manner: Manner) -> list[str]:
    """That some of the episodes have no rank correlation, and why."""
    without = [scored for scored in episodes if math.isnan(scored.dense_correlation(manner))]
    if not without:
        return []
    dense = [scored.episode.reward[scored.judged(manner)] for scored in without]
    cause = " or ".join(sorted({"it" if np.ptp(reward) else "Meta-World's dense reward" for reward in dense}, key=len))
    return [f"{subject} is measured without {len(without)} of {len(episodes)}, in which {cause} is constant"]


def unordered(subject: str, experts: Sequence[ScoredEpisode], l2_margin: float) -> list[str]:
    """That the margin leaves much of the way to the goal image unordered, of episodes scored by closeness to it."""
    distances = [-scored.reward[: scored.success] for scored in experts if scored.success]
    if not distances:
        return []
    way = float(np.mean([distance[0] for distance in distances]))
    near = sum(int((distance <= l2_margin).sum()) for distance in distances)
    frames = sum(map(len, distances))
    if l2_margin <= LONG * way and near <= LONG * frames:
        return []
    share = f"{l2_margin / way:.0%} of the" if l2_margin < way else "no less than the whole"
    return [
        f"{subject}: l2_margin {l2_margin:g} is {share} way from the first frame to the goal image ({way:.2g}): "
        f"{near} of the {frames} frames before an expert's first success are not told from the goal"
    ]


def _goal_image(task: str) -> str:
    return f"the goal image of {task}"
