"""``sweep.json``: how every trial of a sweep stands, whole on the disk at every moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from furl_lightning.sweep.trial import Trial
from furl_lightning.utils.durable import write_file
from furl_lightning.utils.errors import BadInput

State = Literal["waiting", "running", "finished", "failed"]


@dataclass
class TrialState:
    """How a trial stands."""

    digest: str
    """Of what it is to train."""
    state: State = "waiting"
    attempts: int = 0
    env_steps: int = 0
    node: str = ""
    pid: int | None = None
    """Process id of its furl-fit, while it runs."""
    why: str = ""
    """What ended the last attempt that failed; of a failed trial, why it is given up."""

    def end(self, state: State, why: str = "") -> None:
        """No attempt is being made any more."""
        self.state, self.why, self.pid = state, why or self.why, None


class Ledger:
    """The states of a sweep's trials, in memory and in ``sweep.json``.

    Args:
        folder: the sweep's.
        trials: all of them.
        resume: go on with the sweep that lies in the folder: finished trials stay so, the others wait.

    Raises:
        BadInput: a sweep lies in the folder and is not to be resumed, or the other way round, or it is another.
    """

    def __init__(self, folder: Path, trials: Sequence[Trial], resume: bool) -> None:
        self.path, self.trials = folder / "sweep.json", trials
        self._written = ""
        if not resume:
            self._refuse_if_taken()
        saved = self._read() if resume else {}
        self.states = {trial.name: self._state(trial, saved.pop(trial.name, None)) for trial in trials}
        self._others = saved  # of an earlier form of the sweep; they stay as they are

    def _refuse_if_taken(self) -> None:
        folder = self.path.parent
        if folder.exists() and any(folder.iterdir()):
            go_on = "go on with --resume, or " if self.path.is_file() else ""
            raise BadInput(f"the sweep folder {folder} exists already; {go_on}choose another --name")

    def _read(self) -> dict[str, TrialState]:
        if not self.path.is_file():
            raise BadInput(f"there is no sweep to go on with in {self.path.parent}; leave out --resume")
        try:
            entries = json.loads(self.path.read_text())["trials"]
            return {name: TrialState(**entry) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{self.path} is damaged, or of another version: {error}") from error

    def _state(self, trial: Trial, saved: TrialState | None) -> TrialState:
        if saved is None:
            return TrialState(trial.digest)
        if saved.digest != trial.digest:
            raise BadInput(f"{trial.name} was begun with other settings; choose another --name for these")
        is_here = (self.path.parent / trial.name / "metrics.csv").is_file()
        state: State = "finished" if saved.state == "finished" and is_here else "waiting"
        return TrialState(trial.digest, state, saved.attempts, saved.env_steps, why=saved.why)

    def write(self) -> None:
        """Put the states on the disk, if they have changed."""
        entries = {**self._others, **self.states}
        text = json.dumps({"trials": {name: asdict(entry) for name, entry in entries.items()}}, indent=1)
        if text != self._written:
            write_file(self.path, lambda part: part.write_text(text))
            self._written = text

    def finished(self) -> list[Trial]:
        """The trials that have reached their end."""
        return [trial for trial in self.trials if self.states[trial.name].state == "finished"]

    def counts(self) -> str:
        """How many trials are in each state, in words."""
        states = [entry.state for entry in self.states.values()]
        return ", ".join(
            f"{states.count(state)} {state}"
            for state in ("finished", "running", "waiting", "failed")
            if states.count(state) or state == "finished"
        )
