"""How fuzzy is a VLM reward: its order along experts' episodes, and how it tells success from failure.

The reward is the cosine of frame and instruction, or an aligned one; every figure here is about its
order alone, except the gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from furl_lightning.envs.episodes import Episode
from furl_lightning.vlm import VLM


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two samples [T] without ties."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def wrongly_ordered(reward: np.ndarray) -> float:
    """Share of all pairs of frames [T] in which the later one has the lower reward; 0.5 is chance."""
    earlier, later = np.triu_indices(len(reward), 1)
    return float((reward[later] < reward[earlier]).mean())


def above(success: np.ndarray, failure: np.ndarray) -> float:
    """Share of pairs in which the success frame has the higher reward, ties half: the area under the ROC curve."""
    ranks = stats.rankdata(np.concatenate([success, failure]))
    number = len(success)
    return float((ranks[:number].sum() - number * (number + 1) / 2) / (number * len(failure)))


class Measured:
    """One episode as a VLM sees it."""

    def __init__(self, vlm: VLM, task: str, episode: Episode, instruction: Tensor) -> None:
        self.task, self.episode = task, episode
        self.embedding = vlm.encode_images(torch.from_numpy(episode.frames)).cpu()  # [T, width]
        self.cosine = F.cosine_similarity(self.embedding, instruction.cpu(), dim=-1).numpy()  # [T]
        self.success = episode.first_success()

    @property
    def way_in(self) -> slice:
        """The frames up to the first success, it included; all where there is none."""
        return slice(None, None if self.success is None else self.success + 1)

    @property
    def last_success(self) -> Tensor:
        """Embedding of the last frame that shows success, of the last frame where none does."""
        found = np.flatnonzero(self.episode.success)
        return self.embedding[int(found[-1]) if len(found) else -1]

    def correlation(self, reward: np.ndarray | None = None) -> float:
        """Spearman's rank correlation of a reward [T] (the cosine) and time up to the first success."""
        reward = self.cosine if reward is None else reward
        return spearman(reward[self.way_in], self.episode.step[self.way_in])

    def way(self) -> float:
        """L2 distance from the first frame to the first success; nan without success."""
        if self.success is None:
            return float("nan")
        return float((self.embedding[self.success] - self.embedding[0]).norm())


COLUMNS = {
    "correlation": "rank correlation with time, experts (1 is best)",
    "perturbed": "rank correlation with the dense reward, perturbed and failed episodes (1 is best)",
    "wrong_pairs": "wrongly ordered pairs of frames, experts (0 is best)",
    "maximum": "where the maximum lies, experts (1 is the first success, 0 the start)",
    "gap": "mean reward of success frames minus that of failed episodes",
    "above": "success frame above a failed episode's (1 is best)",
    "way": "distance of the first frame's embedding to the first success's, experts (model.l2_margin is a part of it)",
}
"""What is measured, and how to read it."""


def figures(
    experts: Sequence[Measured], others: Sequence[Measured], rewards: dict[int, np.ndarray]
) -> dict[str, float]:
    """One task's figures for a reward.

    Args:
        experts: undisturbed experts' episodes.
        others: perturbed and failed ones.
        rewards: the reward [T] of each episode, by ``id`` of its Measured.

    Returns:
        By the keys of :data:`COLUMNS`, NaN where a figure does not exist: means over the episodes;
        ``gap`` and ``above`` over all frames. ``way`` is the VLM's, whatever the reward.
    """
    found = [m for m in experts if m.success is not None]
    failed = [m for m in others if m.success is None]
    won = [rewards[id(m)][m.episode.success] for m in [*experts, *others] if m.success is not None]
    lost = [rewards[id(m)] for m in failed]
    told = bool(won and lost)
    return {
        "correlation": _mean([m.correlation(rewards[id(m)]) for m in experts]),
        "perturbed": _mean([float(stats.spearmanr(rewards[id(m)], m.episode.reward).statistic) for m in others]),
        "wrong_pairs": _mean([wrongly_ordered(rewards[id(m)][m.way_in]) for m in experts]),
        "maximum": _mean(
            [float(m.episode.step[rewards[id(m)].argmax()] / max(m.episode.step[m.success], 1)) for m in found]
        ),
        "gap": float(np.concatenate(won).mean() - np.concatenate(lost).mean()) if told else float("nan"),
        "above": above(np.concatenate(won), np.concatenate(lost)) if told else float("nan"),
        "way": _mean([m.way() for m in found]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
