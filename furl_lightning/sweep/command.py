"""``furl-sweep``: methods, goal modes, tasks and seeds spread over the nodes of a Ray cluster, or over this machine."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from furl_lightning.commands.arguments import answer, parse, parser
from furl_lightning.commands.report import report
from furl_lightning.sweep.plan import Sweep
from furl_lightning.sweep.run_storage import RunStorage
from furl_lightning.sweep.trial import NOWHERE, Place, Trial
from furl_lightning.utils.durable import write_file
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.stopping import Stopping

LOOPBACK = ("127.0.0.1", "::1")
State = Literal["waiting", "running", "finished", "failed"]
POLL_SECONDS = 1.0
CONNECT_SECONDS = 5.0
LOST_SECONDS = 60.0
"""A trial that has said nothing for so long is not waited for when the sweep is stopped."""


@dataclass
class Progress:
    """How a trial stands; ``sweep.json`` holds one for each."""

    digest: str
    """Of what it is to train."""
    state: State = "waiting"
    attempts: int = 0
    env_steps: int = 0
    node: str = ""
    pid: int | None = None
    """Of its furl-fit."""
    why: str = ""
    """What went wrong, if it has failed."""


def sweep(argv: Sequence[str] | None = None) -> int:
    """``furl-sweep``; returns the exit status."""
    return answer("furl-sweep", _sweep, argv)


def _sweep(argv: list[str]) -> int:
    flags = parser("furl-sweep", "Train methods x goals x tasks x seeds as trials on Ray, and report on them.")
    flags.parser_mode = "omegaconf"
    flags.add_argument("--config", action="config", help="A sweep file, see conf/sweep; options come after it.")
    flags.add_class_arguments(Sweep)
    flags.add_argument("--address", type=str | None, default=None, help="Of a Ray cluster: auto or HOST:PORT.")
    flags.add_argument("--num_cpus", type=int | None, default=None, help="CPUs to use, where Ray is started here.")
    flags.add_argument("--resume", type=bool, nargs="?", const=True, default=False, help="Go on with a sweep.")
    given = parse(flags, argv)
    plan = Sweep(**{entry.name: given[entry.name] for entry in fields(Sweep)})
    if plan.name is None:
        plan.name = Path(str(given.config[-1])).stem if given.config else "sweep"
    if plan.name in ("", ".", "..") or "/" in plan.name:
        raise BadInput(f"--name must be a plain folder name such as 'paper', not '{plan.name}'")
    _refuse_without_ray(given.address)
    if given.num_cpus is not None and (given.address is not None or given.num_cpus < 1):
        raise BadInput("--num_cpus is of a Ray that is started here: give it without --address, at least 1")
    trials = plan.trials()
    folder = Path(plan.runs).resolve() / plan.name
    storage = None if plan.storage is None else f"{plan.storage.rstrip('/')}/{plan.name}"
    place = Place(folder, storage, Path.cwd(), max(1, math.floor(plan.cpus)), plan.gpus > 0)
    if storage is not None:
        try:
            RunStorage(storage, folder)
        except (ImportError, ValueError) as error:
            raise BadInput(f"storage: {' '.join(str(error).split())}") from error
    board = _Ledger(folder, trials, given.resume)
    with Stopping() as stopping, _ray(given.address, given.num_cpus, plan):
        stopping.install()  # again: Ray puts a handler of its own over SIGTERM's
        stopping.waits = True
        board.write()
        _run(plan, place, board, stopping)
    finished = [trial for trial in trials if board.progress[trial.name].state == "finished"]
    if stopping.signal is not None and len(finished) < len(trials):
        again = [part for part in argv if part != "--resume"]
        print(
            f"\nfurl-sweep: stopped by {stopping.signal.name}; {len(finished)} of {len(trials)} trials are finished; "
            f"go on with:\n  {shlex.join(['furl-sweep', *again, '--resume'])}",
            file=sys.stderr,
        )
        return stopping.status
    for trial in trials:
        if board.progress[trial.name].state == "failed":
            print(f"furl-sweep: {trial.name} failed: {board.progress[trial.name].why}; see {folder / trial.name}.log",
                  file=sys.stderr)  # fmt: skip
    if finished:
        labels = [f"{method}={method}-*" for method in dict.fromkeys(trial.method for trial in finished)]
        report([*(str(folder / t.name) for t in finished), "--label", *labels, "--out", str(folder / "report")])
    return 0 if len(finished) == len(trials) else 1


def _refuse_without_ray(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send them to its makers
    try:
        import ray  # noqa: F401
    except ImportError:
        raise BadInput("Ray is not installed; install it with: pip install 'furl_lightning[ray]'") from None


@contextmanager
def _ray(address: str | None, num_cpus: int | None, plan: Sweep) -> Iterator[None]:
    """Ray on this machine, on the loopback alone, or the cluster at an address.

    Raises:
        BadInput: there is no cluster at the address, or no place for a trial on this machine.
    """
    import ray

    if address is not None and address.startswith("ray://"):
        raise BadInput("--address takes auto or HOST:PORT of a cluster that this machine is a node of, not ray://")
    quiet: dict[str, Any] = dict(log_to_driver=False, logging_level=logging.ERROR)
    try:
        if address is None:
            with _alone():
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=100 * 2**20,  # nothing large goes through it
                    **quiet,
                )
            if ray.util.get_node_ip_address() not in LOOPBACK:
                raise RuntimeError(f"Ray {ray.__version__} does not keep to the loopback; install ray 2.60")
        else:
            with _constants(ENABLE_RAY_CLUSTER=not _on_loopback(address), NUM_REDIS_GET_RETRIES=1):  # tries of 40 s
                ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(f"no Ray at {address or 'this machine'}: {' '.join(str(error).split())}") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(n.get("CPU", 0) >= plan.cpus and n.get("GPU", 0) >= plan.gpus for n in nodes):
            need = f"no node has {plan.cpus:g} CPUs and {plan.gpus:g} GPUs for a trial"
            if address is None:
                raise BadInput(f"{need}; give fewer with --cpus and --gpus")
            print(f"furl-sweep: {need}; waiting for one to join", file=sys.stderr)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _alone() -> Iterator[None]:
    """Have a Ray that starts meanwhile keep to itself, for which it has no option.

    What its makers made for macOS makes its servers listen to the loopback alone. And its first node asks a cloud's
    metadata server where it is, usage statistics or not: a proxy that does not exist keeps that on this machine.
    """
    proxied = "http_proxy" in os.environ
    os.environ.setdefault("http_proxy", NOWHERE)
    try:
        with _constants(ENABLE_RAY_CLUSTER=False):
            yield
    finally:
        if not proxied:
            del os.environ["http_proxy"]


@contextmanager
def _constants(**changed: Any) -> Iterator[None]:
    """Have constants of Ray, for which it has no options, be others meanwhile."""
    from ray._private import ray_constants

    before = {name: getattr(ray_constants, name) for name in changed}
    for name, value in changed.items():
        setattr(ray_constants, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)


def _on_loopback(address: str) -> bool:
    """Whether the cluster at an address listens to the loopback alone.

    Ray takes every loopback address for this machine's address on its network, and would look there without end.

    Raises:
        ConnectionError: nothing listens at the address.
    """
    from ray._private import services

    for alone in (False, True):
        with _constants(ENABLE_RAY_CLUSTER=not alone):
            host, _, port = services.canonicalize_bootstrap_address_or_die(address).rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError:
            continue
        return alone
    raise ConnectionError("nothing listens there; give the address that ray start --head printed")


def _run(plan: Sweep, place: Place, ledger: _Ledger, stopping: Stopping) -> None:
    """Hand the trials that are not finished to Ray and follow them to their end, or to a stop."""
    import ray

    from furl_lightning.sweep.ray_tasks import start_board, start_trial

    board = start_board()
    waiting = [trial for trial in ledger.trials if ledger.progress[trial.name].state != "finished"]
    before = {trial.name: ledger.progress[trial.name].attempts for trial in waiting}
    handles = {start_trial(t, place, board, plan.cpus, plan.gpus, plan.retries): t for t in waiting}
    screen = _Screen(plan.name or "", ledger)
    told = False
    while handles:
        ended, _ = ray.wait(list(handles), num_returns=len(handles), timeout=POLL_SECONDS)
        now, notices = ray.get(board.read.remote())
        for name, notice in notices.items():
            progress = ledger.progress[name]
            progress.attempts = before[name] + notice.attempts
            progress.node, progress.pid = notice.node, notice.pid if notice.running else None
            progress.env_steps = notice.env_steps or progress.env_steps
            alive = notice.running and now - notice.heard < LOST_SECONDS
            progress.state = "running" if alive else "waiting"
        for handle in ended:
            _end(handles.pop(handle), handle, place, ledger)
        ledger.settle()
        ledger.write()
        screen.show()
        if stopping.signal is not None:
            if not told:
                told = True
                ray.get(board.stop.remote())
            elif not any(progress.state == "running" for progress in ledger.progress.values()):
                break
    screen.close()


def _end(trial: Trial, handle: Any, place: Place, ledger: _Ledger) -> None:
    """Take a task's result."""
    import ray

    progress = ledger.progress[trial.name]
    try:
        reached = ray.get(handle)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
        ledger.ends[trial.name] = ("failed", " ".join(str(cause).split()) or type(cause).__name__)
        return
    except ray.exceptions.RayError as error:
        lost = f"its worker or node was lost after {progress.attempts} attempts ({type(error).__name__})"
        ledger.ends[trial.name] = ("failed", lost)
        return
    if not reached:  # told to stop
        return
    if place.storage is not None:
        RunStorage(place.storage, place.folder).fetch(trial.name, checkpoints=False)
    progress.env_steps = trial.env_steps
    if (place.folder / trial.name / "metrics.csv").is_file():
        ledger.ends[trial.name] = ("finished", "")
    else:
        why = f"it ended on {progress.node}, but nothing of it is here"
        ledger.ends[trial.name] = ("failed", f"{why}: nodes must share {place.folder}, or give --storage")


class _Ledger:
    """``sweep.json``: how every trial stands, kept whole on disk at every moment.

    Raises:
        BadInput: a sweep lies in the folder and is not to be resumed, or the other way round, or it is another.
    """

    def __init__(self, folder: Path, trials: list[Trial], resume: bool) -> None:
        self.path, self.trials = folder / "sweep.json", trials
        self.progress = {trial.name: Progress(trial.digest) for trial in trials}
        self.ends: dict[str, tuple[State, str]] = {}
        self._written = ""
        if not resume:
            if folder.exists() and any(folder.iterdir()):
                go_on = "go on with --resume, or " if self.path.is_file() else ""
                raise BadInput(f"the sweep folder {folder} exists already; {go_on}choose another --name")
            return
        if not self.path.is_file():
            raise BadInput(f"there is no sweep to go on with in {folder}; leave out --resume")
        try:
            saved = {name: Progress(**entry) for name, entry in json.loads(self.path.read_text())["trials"].items()}
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{self.path} is damaged, or of another version: {error}") from error
        for trial in trials:
            before = saved.get(trial.name)
            if before is None:
                continue
            if before.digest != trial.digest:
                raise BadInput(f"{trial.name} was begun with other settings; choose another --name for these")
            here = (folder / trial.name / "metrics.csv").is_file()
            kept = "finished" if before.state == "finished" and here else "waiting"
            self.progress[trial.name] = Progress(trial.digest, kept, before.attempts, before.env_steps)  # type: ignore[arg-type]
        self._others = {name: entry for name, entry in saved.items() if name not in self.progress}

    _others: dict[str, Progress] = {}
    """Of an earlier form of the sweep; kept as they were."""

    def settle(self) -> None:
        """An end is for good, whatever the board said last."""
        for name, (state, why) in self.ends.items():
            progress = self.progress[name]
            progress.state, progress.why, progress.pid = state, why, None

    def write(self) -> None:
        """Put it on the disk, if it has changed."""
        entries = {**self._others, **self.progress}
        text = json.dumps({"trials": {name: asdict(entry) for name, entry in entries.items()}}, indent=1)
        if text != self._written:
            write_file(self.path, lambda part: part.write_text(text))
            self._written = text

    def counts(self) -> str:
        """In words."""
        states = [progress.state for progress in self.progress.values()]
        return ", ".join(
            f"{states.count(state)} {state}"
            for state in ("finished", "running", "waiting", "failed")
            if states.count(state) or state == "finished"
        )


class _Screen:
    """A table that is drawn anew in place; where there is no terminal, a line for each change of state."""

    def __init__(self, name: str, ledger: _Ledger) -> None:
        self.name, self.ledger = name, ledger
        self._live = sys.stdout.isatty()
        self._lines = 0
        self._shown: dict[str, tuple[str, int]] = {}

    def show(self) -> None:
        """Show how things stand."""
        if self._live:
            lines = self.table(max(5, shutil.get_terminal_size().lines - 3))
            width = shutil.get_terminal_size().columns
            erase = f"\x1b[{self._lines}A\x1b[J" if self._lines else ""
            print(erase + "\n".join(line[:width] for line in lines), flush=True)
            self._lines = len(lines)
            return
        for trial, progress in self.ledger.progress.items():
            key = (progress.state, progress.attempts)
            if key != self._shown.get(trial, ("waiting", progress.attempts)):
                clock = time.strftime("%H:%M:%S")
                print(f"{clock}  {trial}  {_words(progress)}  [{self.ledger.counts()}]", flush=True)
            self._shown[trial] = key

    def close(self) -> None:
        """Leave the whole table behind."""
        if self._live and self._lines:
            print(f"\x1b[{self._lines}A\x1b[J", end="")
        print("\n".join(self.table(len(self.ledger.progress))), flush=True)

    def table(self, rows: int) -> list[str]:
        """Those that run first; at most so many rows."""
        order = {"running": 0, "failed": 1, "waiting": 2, "finished": 3}
        entries = sorted(self.ledger.progress.items(), key=lambda entry: order[entry[1].state])
        width = max(len(name) for name in ["trial", *self.ledger.progress])
        lines = [
            f"{self.name}: {self.ledger.counts()}",
            f"{'trial':<{width}}  {'state':<8}  {'env steps':>11}  attempts  node",
        ]
        for name, progress in entries[:rows]:
            p = progress
            lines.append(f"{name:<{width}}  {p.state:<8}  {p.env_steps:>11,}  {p.attempts:>8}  {p.why or p.node}")
        if len(entries) > rows:
            lines.append(f"... and {len(entries) - rows} more")
        return lines


def _words(progress: Progress) -> str:
    if progress.state == "running":
        return f"running on {progress.node}" + (f", attempt {progress.attempts}" if progress.attempts > 1 else "")
    return f"failed: {progress.why}" if progress.state == "failed" else progress.state
