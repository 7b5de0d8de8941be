"""How fuzzy a VLM's reward is: how it orders experts' episodes, and how it tells success from failure.

The reward is the cosine of frame and instruction, or an aligned one; every measure is of its order alone,
except the gap.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from furl_lightning.envs.episodes import Episode
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
        return cls(task, episode, embedding, F.cosine_similarity(embedding, instruction.cpu(), dim=-1).numpy())

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
    "wrong_pairs": "wrongly ordered pairs of frames, experts (0 is best)",
    "maximum": "where the maximum lies, experts (1 is the first success, 0 the start)",
    "gap": "mean reward of success frames minus that of failed episodes",
    "above": "success frame above a failed episode's (1 is best)",
    "way": "distance of the first frame's embedding to the first success's, experts (model.alignment.l2_margin is a "
    "part of it)",
}
"""What is measured, and how to read it."""


def measure(experts: Sequence[ScoredEpisode], others: Sequence[ScoredEpisode]) -> dict[str, float]:
    """One task's measures of a reward.

    Args:
        experts: undisturbed experts' episodes.
        others: perturbed and failed ones.

    Returns:
        By the keys of :data:`MEASURES`, NaN where a measure does not exist: means over the episodes, of experts
        only those with success for ``maximum`` and ``way``; ``gap`` and ``above`` over all frames. ``way`` is the
        VLM's, whatever the reward.
    """
    successful = [scored for scored in experts if scored.success is not None]
    success = [scored.reward[scored.episode.success] for scored in [*experts, *others] if scored.success is not None]
    failure = [scored.reward for scored in others if scored.success is None]
    both = bool(success and failure)
    return {
        "correlation": _mean([scored.correlation() for scored in experts]),
        "perturbed": _mean([spearman(scored.reward, scored.episode.reward) for scored in others]),
        "wrong_pairs": _mean([wrongly_ordered(scored.reward[scored.way_in]) for scored in experts]),
        "maximum": _mean([scored.peak() for scored in successful]),
        "gap": float(np.concatenate(success).mean() - np.concatenate(failure).mean()) if both else float("nan"),
        "above": above(np.concatenate(success), np.concatenate(failure)) if both else float("nan"),
        "way": _mean([scored.way() for scored in successful]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
