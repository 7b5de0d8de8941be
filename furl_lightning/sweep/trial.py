"""A trial of a sweep: ``furl-fit`` on a share of a population, in a process that may be killed and go on later.

Imports nothing heavy: this is what a scheduler's workers load.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from furl_lightning.runs.lock import is_locked
from furl_lightning.sweep.run_storage import RunStorage
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.stopping import SIGNALS

POLL_SECONDS = 0.5
NOWHERE = "http://127.0.0.1:9"
"""The address of a proxy that does not exist."""
LOCK_SECONDS = 60.0
"""How long the process of an earlier attempt may take to die."""

Report = Callable[[int, int], bool]
"""Takes the process's id and the environment steps made; returns whether to stop."""


class TrialFailed(RuntimeError):
    """An attempt ended badly; another may go on from the last checkpoint."""


class TrialRefused(BadInput):
    """furl-fit refuses the configuration, or the node the folder: another attempt would end in the same way."""


@dataclass(frozen=True)
class Trial:
    """What one ``furl-fit`` is to train.

    Attributes:
        name: of the run, a plain folder name.
        method: name of the method in the sweep.
        goal: goal mode.
        tasks: of the share.
        seeds: of the share; its agents are tasks x seeds.
        env_steps: length of the run.
        configs: YAML texts, each laid over those before it.
    """

    name: str
    method: str
    goal: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    env_steps: int
    configs: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Place:
    """Where a sweep's trials lie, and the resources of one.

    Attributes:
        folder: holds a folder and a log for each trial; on storage that all nodes share, unless
            there is a ``storage``.
        storage: fsspec URL that trials are fetched from and pushed to, or None.
        cwd: folder that relative paths in configurations start from.
        threads: CPU threads of a trial.
        gpu: whether it may use the GPU that it sees.
    """

    folder: Path
    storage: str | None
    cwd: Path
    threads: int
    gpu: bool


def run(trial: Trial, place: Place, report: Report) -> bool:
    """Train until the end, from the newest whole checkpoint if there is one; returns whether the end was reached.

    Raises:
        TrialFailed: the process ended badly; the message says why.
        TrialRefused: the configuration cannot be used, or the folder is not shared.
    """
    with _folder(trial, place) as (folder, storage):
        run_folder, log = folder / trial.name, folder / f"{trial.name}.log"
        _wait_until_free(run_folder)
        newest = newest_whole(run_folder / "checkpoints")
        if newest is not None and steps_of(newest) >= trial.env_steps:  # only the message was lost
            return True
        with tempfile.TemporaryDirectory(prefix="furl-sweep-") as configs, log.open("ab") as output:
            command = [sys.executable, "-m", "furl_lightning.fit_process", str(os.getpid())]
            for number, text in enumerate(trial.configs):
                path = Path(configs) / f"{number}.yaml"
                path.write_text(text)
                command += ["--config", str(path)]
            command += ["--runs", str(folder), "--name", trial.name, "--trainer.enable_progress_bar", "false"]
            if newest is not None:
                command += ["--ckpt_path", str(newest)]
            start = output.tell()
            status = _watch(command, place, run_folder, output.fileno(), storage, report)
        if storage is not None:
            storage.push(trial.name, final=True)
        if status == 0:
            return True
        if status - 128 in SIGNALS:
            return False
        raise (TrialRefused if status == 2 else TrialFailed)(why(status, log, start))


@contextlib.contextmanager
def _folder(trial: Trial, place: Place) -> Iterator[tuple[Path, RunStorage | None]]:
    """The folder to work in: the shared one, or a scratch folder with what the storage has of the trial."""
    if place.storage is None:
        if not place.folder.is_dir():
            raise TrialRefused(
                f"there is no folder {place.folder} on node {os.uname().nodename}: runs must lie on storage that all "
                "nodes share, or be fetched and pushed: give --storage"
            )
        yield place.folder, None
        return
    with tempfile.TemporaryDirectory(prefix="furl-sweep-") as scratch:
        storage = RunStorage(place.storage, Path(scratch))
        storage.fetch(trial.name)
        yield Path(scratch), storage


def _watch(
    command: list[str], place: Place, run_folder: Path, output: int, storage: RunStorage | None, report: Report
) -> int:
    """Run furl-fit to its end, or until it has stopped as asked; returns its exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(place.threads)}
    environment.setdefault("LP_NUM_THREADS", str(place.threads - 1))  # of software OpenGL
    if environment.get("http_proxy") == NOWHERE:
        del environment["http_proxy"]
    if not place.gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        cwd=place.cwd if place.cwd.is_dir() else None,
        start_new_session=True,
    )
    try:
        stopping = False
        while process.poll() is None:
            if report(process.pid, steps_made(run_folder)) and not stopping:
                stopping = True
                process.terminate()
            if storage is not None:
                storage.push(run_folder.name)
            time.sleep(POLL_SECONDS)
        report(process.pid, steps_made(run_folder))
        return process.returncode
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_free(run_folder: Path) -> None:
    """Wait for an earlier attempt's process to release the folder: it may outlive the connection to its node.

    Raises:
        TrialFailed: it still has it after a minute.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while is_locked(run_folder):
        if time.monotonic() > deadline:
            raise TrialFailed(f"{run_folder} is still in use by another process")
        time.sleep(POLL_SECONDS)


def newest_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint that is whole with all its files, if there is one."""
    paths = sorted(checkpoints.glob("step-*.ckpt"), reverse=True)
    if not paths:
        return None
    from furl_lightning.replay.journal import DamagedFile
    from furl_lightning.training.checkpoint import load_whole  # takes seconds and memory

    for path in paths:
        with contextlib.suppress(DamagedFile):
            load_whole(path)
            return path
    return None


def steps_of(checkpoint: Path) -> int:
    """Environment steps of a ``step-*.ckpt``."""
    return int(checkpoint.stem.removeprefix("step-"))


def steps_made(run_folder: Path) -> int:
    """Environment steps of the newest row of ``metrics.csv``, 0 where there is none."""
    try:
        with (run_folder / "metrics.csv").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2_000))
            rows = file.read().split(b"\n")[:-1]  # what follows the last end of a line is not whole
    except OSError:
        return 0
    steps = [row.split(b",")[0] for row in rows[1:]]
    return max((int(number) for number in steps if number.isdigit()), default=0)


def why(status: int, log: Path, start: int = 0) -> str:
    """What ended a furl-fit badly, in one line.

    That is the signal that killed it, or the last that it says itself, or that a traceback ends with: warnings of
    Python and of libraries may well come after these.

    Args:
        status: of the process, below 0 a signal.
        log: with what it printed.
        start: in bytes, where that begins.
    """
    if status < 0:
        return f"killed by signal {-status} ({_signal_name(-status)})"
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    causes = _causes(lines)
    return " ".join(causes[-1].split()) if causes else f"furl-fit ended with status {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return "no name"


def _causes(lines: list[str]) -> list[str]:
    """What furl-fit says itself, and the exceptions under tracebacks but for those that Python ignored."""
    causes, before, is_inside = [], "", False
    for line in lines:
        if line.startswith("furl-fit: "):
            causes.append(line)
            is_inside = False
        elif line.startswith("Traceback (most recent call last)"):
            is_inside = not before.startswith("Exception ignored")
        elif is_inside and line and not line[0].isspace():
            causes.append(line)
            is_inside = False
        before = line
    return causes
