"""The time left that the progress bar shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from furl_lightning.commands.fit import fit
from furl_lightning.training.progress_bar import TimeLeft

from .conftest import SMALL


def test_random_steps_say_nothing_of_the_time_left() -> None:
    """100 steps of 10 ms without updates, then 100 ms each and an evaluation of a second every 50."""
    left, clock = TimeLeft(), 7.0
    left.update(0, clock, learns=False)
    for step in range(10, 101, 10):
        clock += 0.1
        left.update(step, clock, learns=False)
        assert left.seconds(1_000) is None
    for step in range(110, 201, 10):
        clock += 1.0 + (step % 50 == 0)
        left.update(step, clock, learns=True)
        made = (step - 100) * 0.1 + (step - 100) // 50
        assert left.seconds(1_000) == pytest.approx((1_000 - step) * made / (step - 100))
    assert left.seconds(1_000) == pytest.approx(8 * 12.0)


def test_a_resumed_run_is_measured_from_its_resumption() -> None:
    left = TimeLeft()
    left.update(500, 0.0, learns=False)
    left.update(510, 2.0, learns=True)
    assert left.seconds(1_000) == pytest.approx(490 * 0.2)


def test_the_bar_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It begins without a time left, and ends with none to come."""
    settings = {**SMALL, "model.vlm": "null", "model.reward.source": "task", "model.relay.enabled": "false"}
    argv = [part for name, value in settings.items() for part in (f"--{name}", value)]
    assert fit([*argv, "--runs", str(tmp_path), "--name", "a", "--trainer.accelerator", "cpu"]) == 0
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    first, *_, last = (line for line in lines if "%|" in line)
    assert "0/100 steps" in first and "left ?" in first
    assert "100/100 steps" in last and "left 00:00" in last
