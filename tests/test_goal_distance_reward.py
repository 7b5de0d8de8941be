"""The distance to the goal image as reward: by hand, and in runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from furl_lightning.commands.fit import fit
from furl_lightning.method.goal_distance import GoalDistanceReward
from furl_lightning.runs.read import read
from furl_lightning.training.trained import load

from .conftest import Run, assert_same
from .test_resume import IGNORE

CONFIG = ["--config", "method/goal_distance"]


def test_by_hand() -> None:
    """Three, four, five; nothing for an agent without goal image; some agents in another order."""
    reward = GoalDistanceReward(3, 2)
    reward.aim(torch.tensor([[0.0, 0.0], [torch.nan, torch.nan], [1.0, 1.0]]))
    frames = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]).repeat(3, 1, 1)
    torch.testing.assert_close(reward(frames), torch.tensor([[-5.0, 0.0], [0.0, 0.0], [-(13.0**0.5), -(2.0**0.5)]]))
    torch.testing.assert_close(reward(frames[:2], torch.tensor([2, 0]))[1], torch.tensor([-5.0, 0.0]))


@pytest.mark.parametrize(
    "more", [{}, {"data__env__obs": "pixels", "data__env__pixel_size": 20}], ids=["state", "pixels"]
)
def test_a_run_resumes_bit_for_bit(run: Run, tmp_path: Path, more: dict[str, object]) -> None:
    """From within an episode; n-step returns score later frames too; a checkpoint alone has the goal."""
    settings = {
        "data__env_steps": 70,
        "data__checkpoints__every": 60,
        "data__replay__n_step": 2,
        "data__seeds": "[0, 5]",
    }
    straight = run("straight", *CONFIG, **settings, **more)
    checkpoint = tmp_path / "straight/checkpoints/step-000000060.ckpt"
    resumed = run("resumed", *CONFIG, "--ckpt_path", str(checkpoint), **settings, **more)
    assert_same(straight, resumed, ignore=IGNORE)
    goal = straight["FuRLDataModule"]["goal_embedding"]
    assert torch.equal(straight["state_dict"]["learner.reward.goal_embedding"], goal) and goal.isfinite().all()
    frames = torch.cat([goal[1:], torch.zeros_like(goal[1:])])
    score = load(tmp_path / "straight").module.built.score(1, frames)
    torch.testing.assert_close(score, torch.tensor([0.0, -float(goal[1].norm())]))
    assert read(tmp_path / "straight").settings["model"]["reward"]["source"] == "goal_distance"


def test_without_a_goal_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        fit([*CONFIG, "--data.tasks", "[reach]", "--data.goal_image", "false", "--runs", str(tmp_path), "--name", "x"])
        == 2
    )
    assert "is the distance to the goal image, but data.goal_image is false" in capsys.readouterr().err
