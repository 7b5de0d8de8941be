"""Worker processes that obey commands: started, asked, waited for with a limit, and ended.

The parent never waits without end: not for an answer, nor for a worker to start or to close.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.stopping import SIGNALS, stop_is_asked

TIMEOUT = 120
"""Seconds that an answer may take."""
START_SECONDS = 600
"""Seconds that workers may take to start, at least: they import from what may be a slow network disk."""
STOP_SECONDS = 5
"""Seconds that an answer may take after a signal to stop."""
CLOSE_SECONDS = 2
"""Seconds that workers may take to close, before they are killed."""
_NAME = "furl-worker-"
_WHY_KILLED = {
    signal.SIGKILL: ": out of memory?",
    signal.SIGBUS: ": no room in /dev/shm? Give the container more (--shm-size), or data.collection.num_workers 0",
}
_IMPORTED_MAIN = 77
"""Exit status of a worker that, while it imported the main script, was to do that script's work."""


class WorkerError(RuntimeError):
    """A worker process failed, ended or hangs; the message is one line, ``details`` the worker's traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message, details)
        self.details = details

    def __str__(self) -> str:
        return str(self.args[0])


class Workers:
    """Processes that each host an object and call its methods.

    Args:
        host: makes the object, in the worker; its method ``close`` is the last that is called.
        arguments: of ``host``, for each worker.
        contents: what each worker hosts, in words.
        timeout: seconds that an answer may take.

    Raises:
        BadInput: processes cannot be started from here.
        WorkerError: one ended, or did not start in time.
    """

    def __init__(
        self,
        host: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        contents: Sequence[str],
        timeout: int = TIMEOUT,
    ) -> None:
        leave_if_importing_main()
        if multiprocessing.current_process().daemon:
            raise BadInput(
                "worker processes cannot be started from a daemonic process, such as those of multiprocessing.Pool: "
                "host the environments in this one (data.collection.num_workers 0), or use concurrent.futures"
            )
        script = _main_script()
        if script is not None and not script.exists():
            raise BadInput(
                f"each worker process imports the main script, and {script.name} is no file: put it in one, or host "
                "the environments in this process (data.collection.num_workers 0)"
            )
        self.contents, self.timeout = list(contents), timeout
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        _running.add(self)
        context = multiprocessing.get_context("spawn")
        # Software OpenGL starts a thread a core in each process; the workers are the parallelism.
        previous = os.environ.get("LP_NUM_THREADS")
        os.environ.setdefault("LP_NUM_THREADS", str(max(0, (os.cpu_count() or 1) // len(arguments) - 1)))
        atexit.register(self.close, force=True)
        # A signal to the whole process group is the parent's to decide on: workers start, and stay, deaf to it.
        deaf = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for number, args in enumerate(arguments):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(theirs, host, args, os.getpid()), name=f"{_NAME}{number}", daemon=True
                )
                process.start()
                theirs.close()
                self._processes.append(process)
                self._connections.append(ours)
        finally:
            if previous is None:
                os.environ.pop("LP_NUM_THREADS", None)
            signal.pthread_sigmask(signal.SIG_SETMASK, deaf)
        self._receive("start", max(timeout, START_SECONDS))

    def call(self, name: str, *args: Sequence[Any]) -> list[Any]:
        """Call a method everywhere; each of ``args`` holds one argument a worker. Returns a result a worker.

        Raises:
            WorkerError: a worker failed, ended or hangs; all of them have been killed.
        """
        if not self._connections:
            raise WorkerError(
                "there are no workers: they were closed, or are those of the process that this one was forked from"
            )
        shares = zip(*args, strict=True) if args else [()] * len(self._connections)
        for connection, arguments in zip(self._connections, shares, strict=True):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed below
                connection.send((name, arguments))
        return self._receive(name, self.timeout)

    def _receive(self, command: str, seconds: int) -> list[Any]:
        results, waited, waited_to_stop = [], 0, 0
        for number, connection in enumerate(self._connections):
            # Seconds are counted, not measured, so that a run which was itself stopped for an hour can go on.
            while not connection.poll(1.0):
                waited, waited_to_stop = waited + 1, waited_to_stop + stop_is_asked()
                if waited >= seconds or waited_to_stop >= STOP_SECONDS:
                    message = f"{self._silence(command, waited, number)}; all workers have been ended"
                    self.close(force=True)
                    raise WorkerError(message)
                if waited == -(-seconds // 2):
                    print(f"{self._silence(command, waited, number)}; the run ends after {seconds} s", file=sys.stderr)
            try:
                result = connection.recv()
            except (EOFError, ConnectionResetError):
                result = self._end_of(number, command)
            if isinstance(result, WorkerError | BadInput):
                self.close(force=True)
                raise result
            results.append(result)
        return results

    def _silence(self, command: str, seconds: int, first: int) -> str:
        """Which workers, of those from the ``first`` on, do not answer, and how to look at them."""
        silent = [number for number in range(first, len(self._connections)) if not self._connections[number].poll(0)]
        pids = {number: self._processes[number].pid for number in silent}
        names = ", ".join(f"{pid} ({self.contents[number]}{_state(pid)})" for number, pid in pids.items())
        pid = next(iter(pids.values()), "PID")
        return (
            f"worker process {names} was told to {command} and has not answered for {seconds} s; to look at it while "
            f"it hangs: py-spy dump --pid {pid}, or cat /proc/{pid}/stack; data.collection.worker_timeout sets the time"
        )

    def _end_of(self, number: int, command: str) -> WorkerError | BadInput:
        """Why a worker is gone."""
        process = self._processes[number]
        process.join(timeout=CLOSE_SECONDS)
        status, name = process.exitcode, f"worker process {process.pid} ({self.contents[number]})"
        if status == _IMPORTED_MAIN:
            script = _main_script()
            name = script.name if script else "the main script"
            return BadInput(
                f"each worker process imports {name} and would begin its work again: put that work under a line "
                "\"if __name__ == '__main__':\""
            )
        if status is not None and status < 0:
            killer = signal.Signals(-status)
            why = f"was killed by {killer.name}{_WHY_KILLED.get(killer, '')}"
        else:
            why = f"ended with status {status}; what it said stands above"
        return WorkerError(f"{name} was told to {command} and {why}")

    def close(self, force: bool = False) -> None:
        """End the workers, politely unless ``force``; a second call does nothing."""
        atexit.unregister(self.close)
        deadline = monotonic() + (0 if force else CLOSE_SECONDS)
        if not force:
            with contextlib.suppress(OSError, EOFError):
                for connection in self._connections:
                    connection.send(("close", ()))
                for connection in self._connections:
                    if connection.poll(max(0.0, deadline - monotonic())):
                        connection.recv()
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=max(0.0, deadline - monotonic()))
            if process.is_alive():
                process.kill()
        for process in self._processes:
            process.join()
        self._connections, self._processes = [], []


_running: weakref.WeakSet[Workers] = weakref.WeakSet()


def _forget() -> None:
    """In a forked child: the workers are the parent's."""
    for workers in _running:
        for process in workers._processes:
            multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]  # it joins them at exit
        workers._connections, workers._processes = [], []


os.register_at_fork(after_in_child=_forget)


def leave_if_importing_main() -> None:
    """End this process if it is a worker that imports the main script, which has come to do its work once more.

    The parent then says what is wrong; here it would be said once a worker.
    """
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False) and process.name.startswith(_NAME):
        os._exit(_IMPORTED_MAIN)


def _main_script() -> Path | None:
    """The file that a process which is started imports first; None where there is none, as in a notebook."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return None if file is None else Path(file)


def _work(connection: Connection, host: Callable[..., Any], args: tuple[Any, ...], parent: int) -> None:
    """A worker's life: obey commands until told to close or the parent is gone."""
    if sys.platform == "linux":  # a parent killed with -9 takes its workers with it, even in mid-step
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before that
            return
    hosted = None
    try:
        hosted = host(*args)
        connection.send(None)
        while True:
            name, arguments = connection.recv()
            connection.send(getattr(hosted, name)(*arguments))
            if name == "close":
                return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BadInput as error:
        with contextlib.suppress(OSError):
            connection.send(error)
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send(WorkerError(f"{type(error).__name__}: {error}", traceback.format_exc()))
    with contextlib.suppress(Exception):
        if hosted is not None:
            hosted.close()


def _state(pid: int) -> str:
    """What the kernel says that a process does, such as ``, stopped``."""
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/status").read_text()
        return f", {text.split('State:', 1)[1].split('(', 1)[1].split(')', 1)[0]}"
    return ""
