"""The image tower of the embedded model, and the frames that it is trained on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from furl_lightning.tasks import TASK_SETS
from furl_lightning.vlm.scene_encoder import SceneEncoder

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))


@pytest.fixture
def trained() -> SceneEncoder:
    """A small tower whose normalisation has seen some batches."""
    torch.manual_seed(0)
    tower = SceneEncoder(32, 8, (4, 6, 8), 3, 16, normalised=True)
    tower.cancel(torch.rand(3, 32, 32))
    for norm in tower.norms:
        assert isinstance(norm, torch.nn.BatchNorm2d)
        torch.nn.init.normal_(norm.weight)
    for _ in range(3):
        tower(torch.rand(20, 3, 32, 32))
    return tower.eval()


def test_folding_the_normalisation_changes_no_embedding(trained: SceneEncoder) -> None:
    pixels = torch.rand(5, 3, 32, 32)
    plain = trained.fused()
    assert not plain.norms
    torch.testing.assert_close(plain(pixels), trained(pixels))
    assert not torch.allclose(plain(pixels[:1]), plain(pixels[1:2]))  # it does look at the picture


def test_the_mean_picture_is_cancelled() -> None:
    mean = torch.rand(3, 32, 32)
    tower = SceneEncoder(32, 8, (4, 6, 8), 3, 16)
    tower.cancel(mean)
    assert (tower.patches(mean[None]) + tower.place).abs().max() < 1e-6


def test_a_placement_of_training_frames() -> None:
    from embedded_vlm_frames import FIRST_SEED, TRAINING_TASKS, play_placement

    assert len(TRAINING_TASKS) == 40
    assert not set(TRAINING_TASKS) & set(TASK_SETS["mt10"])
    first, again, other = (play_placement("door-close", FIRST_SEED + seed) for seed in (0, 0, 2))
    assert first.tobytes() == again.tobytes()
    assert first["pixels"][:10].tobytes() != other["pixels"][:10].tobytes()
    for frames in (first, other):
        assert frames["success"].any() and frames["expert"].any() and not frames["expert"].all()
        distance = np.linalg.norm(frames["object"] - frames["object"][0], axis=1)
        assert distance.max() > 0.05  # it moves, and is displaced
