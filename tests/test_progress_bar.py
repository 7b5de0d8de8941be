"""The time left that the progress bar shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from furl_lightning.commands.fit import fit
from furl_lightning.training.module import FuRLModule
from furl_lightning.training.progress_bar import TimeLeft

from .conftest import SMALL, Run, assert_same


def test_random_steps_say_nothing_of_the_time_left() -> None:
    """100 steps of 10 ms without updates, then 100 ms each and an evaluation of a second every 50."""
    clock = 7.0
    left = TimeLeft(0, clock, 100)
    for step in range(10, 101, 10):
        clock += 0.1
        left.update(step, clock, learns=False)
        assert left.seconds(1_000) is None
    for step in range(110, 201, 10):
        clock += 1.0 + (step % 50 == 0)
        left.update(step, clock, learns=True)
    assert left.seconds(1_000) == pytest.approx(800 * (50 * 0.1 + 1) / 50)


def test_the_later_half_of_the_steps_with_updates_counts() -> None:
    """100 steps of a second, then of a tenth: when as many of these have been made, they alone are counted."""
    left, clock, estimates = TimeLeft(0, 0.0), 0.0, {}
    for step in range(10, 301, 10):
        clock += 10 if step <= 100 else 1
        left.update(step, clock, learns=True)
        estimates[step] = left.seconds(1_000)
    assert estimates[100] == pytest.approx(900.0)
    assert estimates[150] == pytest.approx(850 * (30 + 5) / 80)
    assert estimates[200] == pytest.approx(80.0)
    assert estimates[300] == pytest.approx(70.0)


@pytest.mark.parametrize(("overlap", "learning"), [(False, 0.03 + 0.07), (True, 0.07)])
def test_an_update_that_was_tried_tells_of_those_to_come(overlap: bool, learning: float) -> None:
    """A slow first step is left out; random steps then take 30 ms and updates 70."""
    left = TimeLeft(0, 0.0, 100, overlap)
    left.update(10, 5.0, learns=False)
    left.update_seconds = 0.07
    left.begin_anew(6.0)
    assert left.seconds(1_000) is None
    left.update(20, 6.3, learns=False)
    assert left.seconds(1_000) == pytest.approx(80 * 0.03 + 900 * learning)
    assert left.seconds(50) == pytest.approx(30 * 0.03)
    left.update(100, 8.7, learns=False)
    left.update(110, 10.7, learns=True)  # from here on what was measured counts
    assert left.seconds(1_000) == pytest.approx(890 * 0.2)


def test_a_resumed_run_is_measured_from_its_resumption() -> None:
    left = TimeLeft(500, 0.0)
    left.update(510, 2.0, learns=True)
    assert left.seconds(1_000) == pytest.approx(490 * 0.2)


def test_trying_an_update_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose bar tried one ends bit for bit as one without a bar."""
    tried: list[float] = []
    try_update = FuRLModule.try_update

    def try_and_tell(module: FuRLModule) -> float:
        tried.append(try_update(module))
        return tried[-1]

    monkeypatch.setattr(FuRLModule, "try_update", try_and_tell)
    plain = run("plain")
    assert not tried
    assert_same(plain, run("tried", "--trainer.enable_progress_bar", "true"), ignore=("journal",))
    assert len(tried) == 1 and tried[0] > 0


def test_the_bar_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It begins without a time left, and ends with none to come."""
    settings = {**SMALL, "model.vlm": "null", "model.reward.source": "task", "model.relay.enabled": "false"}
    argv = [part for name, value in settings.items() for part in (f"--{name}", value)]
    assert fit([*argv, "--runs", str(tmp_path), "--name", "a", "--trainer.accelerator", "cpu"]) == 0
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    first, *_, last = (line for line in lines if "%|" in line)
    assert "0/100 steps" in first and "left ?" in first
    assert "100/100 steps" in last and "left 00:00" in last
