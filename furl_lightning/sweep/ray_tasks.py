"""What runs on Ray: trials as tasks, and the board that they report to. Imports nothing heavy but Ray."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import ray

from furl_lightning.sweep.trial import Place, Trial, TrialFailed, run


@dataclass
class Notice:
    """The last report of a trial."""

    attempts: int = 0
    node: str = ""
    pid: int | None = None
    """Of its furl-fit."""
    env_steps: int = 0
    heard: float = 0.0
    """When, in seconds of the board's clock."""
    running: bool = False


class Board:
    """An actor beside the driver: trials report their progress and learn whether to stop."""

    def __init__(self) -> None:
        self.notices: dict[str, Notice] = {}
        self.stopping = False

    def begin(self, name: str, node: str) -> bool:
        """An attempt begins; returns whether it should stop."""
        notice = self.notices.setdefault(name, Notice())
        notice.node, notice.heard = node, time.monotonic()
        notice.attempts += 1
        notice.running = True
        return self.stopping

    def report(self, name: str, pid: int, env_steps: int) -> bool:
        """An attempt goes on; returns whether it should stop."""
        notice = self.notices[name]
        notice.pid, notice.env_steps, notice.heard = pid, env_steps, time.monotonic()
        return self.stopping

    def end(self, name: str) -> None:
        """An attempt has ended, well or badly."""
        self.notices[name].running = False

    def stop(self) -> None:
        """Have all trials stop."""
        self.stopping = True

    def read(self) -> tuple[float, dict[str, Notice]]:
        """The board's time, and the last report of each trial."""
        return time.monotonic(), self.notices


def start_board() -> Any:
    """Start the board on the driver's node."""
    driver_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=driver_node).remote()


def start_trial(trial: Trial, place: Place, board: Any, cpus: float, gpus: float, retries: int) -> Any:
    """Hand a trial to Ray, which tries it again where a worker or node is lost or furl-fit fails."""
    return (
        ray.remote(run_trial)
        .options(name=trial.name, num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=[TrialFailed])
        .remote(trial, place, board)
    )


def run_trial(trial: Trial, place: Place, board: Any) -> bool:
    """One attempt at a trial; returns whether its end was reached."""
    node = f"{ray.util.get_node_ip_address()} ({os.uname().nodename})"
    answers = [board.begin.remote(trial.name, node).future()]

    def report(pid: int, env_steps: int) -> bool:
        # Never blocks: Ray lends the CPUs of a task that waits for it to another task.
        stop = answers[-1].done() and answers[-1].result()
        if answers[-1].done():
            answers.append(board.report.remote(trial.name, pid, env_steps).future())
            del answers[:-1]
        return bool(stop)

    try:
        return run(trial, place, report)
    finally:
        board.end.remote(trial.name)
