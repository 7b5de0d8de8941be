"""A run that is stopped and resumed is bit-equal to one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run, assert_same, load

# Files differ in how the rings are cut, and a resumed process has evaluated nothing else.
IGNORE = ("journal", "callbacks")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"data__goal": "random"},
        {"data__num_workers": 1, "model__relay_threshold": 10_000},
        {
            "model__vlm": "null",
            "model__reward": "task",
            "model__relay": "false",
            "model__critic_layer_norm": "true",
            "data__updates_per_step": 2,
        },
        {
            "model__reward": "cosine",
            "model__relay_counts": "successes",
            "data__success_share": 0.5,
            "data__seeds": "[3]",  # has a success in its first episode
        },
    ],
    ids=["fixed-relay-ends", "random-goals", "workers-relay-lasts", "sac-alone", "zero-shot-and-successes-drawn"],
)
def test_resumed_run_is_bit_equal(run: Run, tmp_path: Path, settings: dict[str, object]) -> None:
    """Stopped in the middle of an episode, after the replay ring has wrapped."""
    straight = run("straight", **settings, data__env_steps=1300)
    run("stopped", **settings, data__env_steps=730)
    resumed = run("stopped", "--ckpt_path", "last", **settings, data__env_steps=1300)
    # The stopped run also evaluated at its end.
    resumed["metrics"] = [line for line in resumed["metrics"] if not line.startswith("730,eval/")]
    assert_same(straight, resumed, ignore=IGNORE)
    assert load(tmp_path / "stopped")["FuRLDataModule"]["env_steps"] == 1300
