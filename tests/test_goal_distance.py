"""The distance to the goal image as a measure: by hand, of real episodes, and as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from furl_lightning.analysis.goal_distance import goal_distances
from furl_lightning.analysis.probe import dense_correlation, measure, spearman
from furl_lightning.analysis.tables import goal_distance_table
from furl_lightning.envs.episodes import Manner, record
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.vlm import CLIP, EmbeddedCLIP

from .made_up_episode import scored


@pytest.mark.parametrize("manner", ["noisy", "random"])
def test_perfect_order_and_its_reverse(manner: Manner) -> None:
    """Embeddings on a line where the dense reward says; the goal image at its far end, then at its near end."""
    dense = [0.0, 0.5, 2.0, 1.0, 7.0, 10.0]
    episode = scored([0.0] * 6, [0, 0, 0, 0, 0, 1], dense, torch.tensor(dense)[:, None] * torch.tensor([[0.6, 0.8]]))
    for goal, expected in ((10.0, 1.0), (0.0, -1.0)):
        closeness = episode.closeness(goal * torch.tensor([0.6, 0.8]))
        assert closeness.reward == pytest.approx([-abs(goal - value) for value in dense], abs=1e-6)
        assert dense_correlation({manner: [closeness]}, manner) == pytest.approx(expected)
        assert measure({manner: [closeness]})[manner] == pytest.approx(expected)


def test_noisy_episodes_count_to_their_first_success() -> None:
    """What they do there is no way to the goal; random ones count whole."""
    episode = scored([1, 2, 3, -1, -2], [0, 0, 1, 1, 1], [1, 2, 3, 4, 5])
    assert dense_correlation({"noisy": [episode]}, "noisy") == pytest.approx(1)
    assert dense_correlation({"random": [episode]}, "random") == pytest.approx(-0.6)
    assert np.isnan(dense_correlation({"noisy": [episode]}, "random"))


def test_the_goal_image_is_of_the_same_placement(tiny_clip: Path) -> None:
    """With random goals: the expert's first success from where the noisy and the random episode begin."""
    vlms = [EmbeddedCLIP(), CLIP(str(tiny_clip))]
    task, settings = "drawer-close", SimulatorSettings("random", "fast")
    expert = record(task, 0, settings, "expert", 500, skipped=1)  # its first frame and its first success
    others: list[Manner] = ["noisy", "random"]
    episodes = {manner: record(task, 0, settings, manner, 2, skipped=1) for manner in others}
    success = expert.first_success()
    assert success == 1
    for episode in episodes.values():
        assert np.array_equal(episode.frames[0], expert.frames[0])
    assert not np.array_equal(expert.frames[0], record(task, 0, settings, "expert", 500).frames[0])
    measured = goal_distances(vlms, [task], [0], "random", 1)
    for vlm, by_task in zip(vlms, measured, strict=True):
        goal = vlm.encode_images(torch.from_numpy(expert.frames[success][None]))
        for manner, episode in episodes.items():
            last = episode.first_success() if manner == "noisy" else None
            part = slice(None, None if last is None else last + 1)
            distance = torch.cdist(vlm.encode_images(torch.from_numpy(episode.frames)), goal)[:, 0].numpy()
            assert by_task[task][manner] == pytest.approx(spearman(-distance[part], episode.reward[part]), abs=2e-3)
    assert measured[0] != measured[1]


def test_vlms_side_by_side() -> None:
    """A task without the figure is left out of the mean."""
    nan = float("nan")
    before = {"reach": {"noisy": 0.5, "random": -0.25}, "push": {"noisy": nan, "random": 0.75}}
    after = {"reach": {"noisy": 0.9, "random": 0.6}, "push": {"noisy": 0.7, "random": nan}}
    table = goal_distance_table({"old": before, "new": after})  # type: ignore[dict-item]  # manners, not any text
    assert table.markdown().splitlines() == [
        "| task | old, noisy | old, random | new, noisy | new, random |",
        "| --- | --- | --- | --- | --- |",
        "| reach | 0.50 | -0.25 | 0.90 | 0.60 |",
        "| push | - | 0.75 | 0.70 | - |",
        "| all | 0.50 | 0.25 | 0.80 | 0.60 |",
    ]
