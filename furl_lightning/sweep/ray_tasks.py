"""What runs on Ray: trials as tasks, which report to the board. Imports nothing heavy but Ray."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Any, Self

import ray

from furl_lightning.sweep.board import Board
from furl_lightning.sweep.trial import Place, Trial, TrialFailed, run

REPORT_SECONDS = 1.0


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
    with _Reports(board, trial.name) as reports:
        return run(trial, place, reports.update)


class _Reports:
    """A context in which the board hears every second that an attempt goes on, whatever the attempt is waiting for."""

    def __init__(self, board: Any, name: str) -> None:
        self.board, self.name = board, name
        self.worker = f"{os.uname().nodename} {os.getpid()} {time.time_ns()}"
        self._pid: int | None = None
        self._env_steps = 0
        self._stop = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def update(self, pid: int, env_steps: int) -> bool:
        """Take what is to be reported from now on; returns whether to stop."""
        self._pid, self._env_steps = pid, env_steps
        return self._stop

    def _report(self) -> None:
        node = f"{ray.util.get_node_ip_address()} ({os.uname().nodename})"
        answer = self.board.begin.remote(self.name, self.worker, node).future()
        while not self._ended.wait(REPORT_SECONDS):
            # Never blocks: Ray lends the CPUs of a task that waits for it to another task.
            if answer.done():
                self._stop = bool(answer.result())
                answer = self.board.report.remote(self.name, self.worker, self._pid, self._env_steps).future()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.board.report.remote(self.name, self.worker, self._pid, self._env_steps)
        why = "" if error is None else " ".join(str(error).split()) or type(error).__name__
        self.board.end.remote(self.name, self.worker, why)
