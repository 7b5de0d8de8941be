"""The driver's loop: trials are handed to Ray and followed to their end, or to a stop."""

from __future__ import annotations

from typing import Any

import ray

from furl_lightning.sweep.board import LOST
from furl_lightning.sweep.ledger import Ledger, TrialState
from furl_lightning.sweep.plan import Sweep
from furl_lightning.sweep.ray_tasks import start_board, start_trial
from furl_lightning.sweep.run_storage import RunStorage
from furl_lightning.sweep.screen import Screen
from furl_lightning.sweep.trial import Place, Trial
from furl_lightning.utils.stopping import Stopping

POLL_SECONDS = 1.0
SILENCE_SECONDS = 60.0
"""A worker that has not reported for so long runs no more: it is not waited for when the sweep is stopped."""


def run_trials(plan: Sweep, place: Place, ledger: Ledger, stopping: Stopping) -> None:
    """Train the trials that are not finished; the ledger follows them.

    Returns when all have ended, or after a signal when those that run have saved what they had.
    """
    board = start_board()
    waiting = [trial for trial in ledger.trials if ledger.states[trial.name].state != "finished"]
    attempts = {trial.name: ledger.states[trial.name].attempts for trial in waiting}
    tasks = {start_trial(t, place, board, plan.cpus, plan.gpus, plan.retries): t for t in waiting}
    stop_sent = False
    with Screen(plan.name or "", ledger) as screen:
        while tasks:
            ended, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=POLL_SECONDS)
            now, notices = ray.get(board.read.remote())
            under_way = {trial.name for trial in tasks.values()}
            for name, notice in notices.items():
                entry = ledger.states[name]
                entry.attempts = attempts[name] + notice.attempts
                if name in under_way:  # an end is for good, whatever the board heard last
                    is_running = notice.worker is not None and now - notice.heard < SILENCE_SECONDS
                    entry.state = "running" if is_running else "waiting"
                    entry.node, entry.pid = notice.node, notice.pid if is_running else None
                    entry.env_steps = notice.env_steps or entry.env_steps
                    entry.why = notice.why or entry.why
            for task in ended:
                trial = tasks.pop(task)
                _end(trial, task, place, ledger.states[trial.name])
            ledger.write()
            screen.show()
            if stopping.signal is None:
                continue
            if not stop_sent:
                stop_sent = True
                ray.get(board.stop.remote())
            elif not any(entry.state == "running" for entry in ledger.states.values()):
                break


def _end(trial: Trial, task: Any, place: Place, entry: TrialState) -> None:
    """Take a task's result."""
    try:
        is_complete = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
        entry.end("failed", " ".join(str(cause).split()) or type(cause).__name__)
        return
    except ray.exceptions.RayError as error:
        entry.end("failed", f"{LOST} after {entry.attempts} attempts ({type(error).__name__})")
        return
    if not is_complete:
        entry.end("waiting")
        return
    if place.storage is not None:
        RunStorage(place.storage, place.folder).fetch(trial.name, checkpoints=False)
    entry.env_steps = trial.env_steps
    if (place.folder / trial.name / "metrics.csv").is_file():
        entry.end("finished")
    else:
        why = f"it ended on {entry.node}, but nothing of it is here"
        entry.end("failed", f"{why}: nodes must share {place.folder}, or give --storage")
