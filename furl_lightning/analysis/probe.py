"""How fuzzy a VLM's reward is: how it orders episodes, and how it tells success from failure.

The reward is the cosine of frame and instruction, an aligned one, or the closeness to the goal image, which is what a
run learns from before its first success; every measure is of its order alone, except the gap.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from furl_lightning.envs.episodes import Episode, Manner
from furl_lightning.vlm import VLM


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two samples [T]; NaN where one of them is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(first, second).statistic)


def wrongly_ordered(reward: np.ndarray) -> float:
    """Share of all pairs of frames [T] in which the later one has the lower reward; 0.5 is chance."""
    earlier, later = np.triu_indices(len(reward), 1)
    return float((reward[later] < reward[earlier]).mean())


def above(success: np.ndarray, failure: np.ndarray) -> float:
    """Share of pairs in which the success frame has the higher reward, ties half: the area under the ROC curve."""
    test = stats.mannwhitneyu(success, failure, method="asymptotic")  # its p-value is of no use here, but is computed
    return float(test.statistic) / (len(success) * len(failure))


@dataclass
class ScoredEpisode:
    """One episode with a reward for each of its T frames."""

    task: str
    episode: Episode
    embedding: Tensor
    """The VLM's, of each frame, [T, width]."""
    reward: np.ndarray
    """Of each frame, [T]."""

    @classmethod
    def zero_shot(cls, vlm: VLM, task: str, episode: Episode, instruction: Tensor) -> Self:
        """Scored by the cosine of each frame's embedding and the instruction's, [width] or [1, width]."""
        embedding = vlm.encode_images(torch.from_numpy(episode.frames)).cpu()
        return cls(task, episode, embedding, np.empty(0)).likeness(instruction)

    def likeness(self, text: Tensor) -> Self:
        """The same episode with another reward: the cosine of embeddings and a text's, [width] or [1, width]."""
        return replace(self, reward=F.cosine_similarity(self.embedding, text.cpu(), dim=-1).numpy())

    def closeness(self, goal: Tensor) -> Self:
        """The same episode with another reward: minus the L2 distance of embeddings to a goal image's, [width]."""
        return replace(self, reward=-(self.embedding - goal.cpu()).norm(dim=-1).numpy())

    @property
    def success(self) -> int | None:
        """Index of the first frame that shows success, or None."""
        return self.episode.first_success()

    @property
    def way_in(self) -> slice:
        """The frames up to and including the first success; all of them where there is none."""
        return slice(None, None if self.success is None else self.success + 1)

    @property
    def last_success(self) -> Tensor:
        """Embedding of the last frame that shows success, of the last frame where none does."""
        successes = np.flatnonzero(self.episode.success)
        return self.embedding[int(successes[-1]) if len(successes) else -1]

    def correlation(self) -> float:
        """Spearman's rank correlation of reward and time up to the first success."""
        return spearman(self.reward[self.way_in], self.episode.step[self.way_in])

    def judged(self, manner: Manner) -> slice:
        """The frames that are compared with Meta-World's dense reward: of noisy episodes up to the first success."""
        return self.way_in if manner == "noisy" else slice(None)

    def dense_correlation(self, manner: Manner) -> float:
        """Spearman's rank correlation with Meta-World's dense reward; NaN where one of both is constant."""
        part = self.judged(manner)
        return spearman(self.reward[part], self.episode.reward[part])

    def peak(self) -> float:
        """When the reward is greatest, as a share of the time to the first success; NaN without success."""
        if self.success is None:
            return float("nan")
        return float(self.episode.step[self.reward.argmax()] / max(self.episode.step[self.success], 1))

    def way(self) -> float:
        """L2 distance of the first frame's embedding and the first success's; NaN without success."""
        if self.success is None:
            return float("nan")
        return float((self.embedding[self.success] - self.embedding[0]).norm())


MEASURES = {
    "correlation": "rank correlation with time, experts (1 is best)",
    "perturbed": "rank correlation with the dense reward, perturbed and failed episodes (1 is best)",
    "noisy": "rank correlation with the dense reward, noisy experts up to the first success (1 is best)",
    "random": "rank correlation with the dense reward, random episodes (1 is best)",
    "wrong_pairs": "wrongly ordered pairs of frames, experts (0 is best)",
    "maximum": "where the maximum lies, experts (1 is the first success, 0 the start)",
    "gap": "mean reward of success frames minus that of failed episodes",
    "above": "success frame above a failed episode's (1 is best)",
    "way": "distance of the first frame's embedding to the first success's, experts (model.alignment.l2_margin is a "
    "part of it)",
}
"""What is measured, and how to read it."""


DISTANCE = "distance"
"""The name among kinds of reward of the closeness to the goal image."""
ScoredEpisodes = Mapping[Manner, Sequence[ScoredEpisode]]
"""One task's episodes by manner."""


def measure(episodes: ScoredEpisodes) -> dict[str, float]:
    """One task's measures of a reward.

    Returns:
        By the keys of :data:`MEASURES`, NaN where a measure does not exist: means over the episodes that have it;
        ``maximum`` and ``way`` only over experts with success, ``gap`` and ``above`` over all frames. ``way`` is the
        VLM's, whatever the reward.
    """
    experts = episodes.get("expert", [])
    others = [scored for manner, of_manner in episodes.items() if manner != "expert" for scored in of_manner]
    success = [scored.reward[scored.episode.success] for scored in [*experts, *others] if scored.success is not None]
    failure = [scored.reward for scored in others if scored.success is None]
    both = bool(success and failure)
    return {
        "correlation": mean([scored.correlation() for scored in experts]),
        "perturbed": mean([spearman(scored.reward, scored.episode.reward) for scored in others]),
        "noisy": dense_correlation(episodes, "noisy"),
        "random": dense_correlation(episodes, "random"),
        "wrong_pairs": mean([wrongly_ordered(scored.reward[scored.way_in]) for scored in experts]),
        "maximum": mean([scored.peak() for scored in experts]),
        "gap": float(np.concatenate(success).mean() - np.concatenate(failure).mean()) if both else float("nan"),
        "above": above(np.concatenate(success), np.concatenate(failure)) if both else float("nan"),
        "way": mean([scored.way() for scored in experts]),
    }


def dense_correlation(episodes: ScoredEpisodes, manner: Manner) -> float:
    """The mean of the episodes' rank correlations with the dense reward; NaN where none has one."""
    return mean([scored.dense_correlation(manner) for scored in episodes.get(manner, [])])


def mean(values: Sequence[float]) -> float:
    """The mean of the numbers among them; NaN where there is none."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else float("nan")
