"""Many simulators marching in lockstep, in this process or shared out over worker processes.

Workers and parent exchange commands by pipe and arrays by shared memory. The same simulators give
the same arrays however they are shared out. Imports no torch: a worker starts in a second or two.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import numpy as np

from furl_lightning.envs.rendering import FRAME_SIZE, close_gl
from furl_lightning.envs.simulator import ACTION_DIM, OBS_DIM, Simulator, SimulatorSettings
from furl_lightning.tasks import Agent
from furl_lightning.utils.stopping import SIGNALS


class _Arrays:
    """The fleet's state of the moment, views of one block of memory that processes can share."""

    def __init__(self, num: int, frames: bool, memory: Any = None) -> None:
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "action": ((num, ACTION_DIM), np.float32),
            "observation": ((num, OBS_DIM), np.float32),
            "reward": ((num,), np.float32),
            "success": ((num,), np.bool_),
            "truncated": ((num,), np.bool_),
            "seconds": ((num, 2), np.float64),  # spent stepping and rendering in the last call
            "pixels": ((num if frames else 0, FRAME_SIZE, FRAME_SIZE, 3), np.uint8),
        }
        sizes = [-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for shape, dtype in shapes.values()]
        self.memory = memory if memory is not None else multiprocessing.get_context("spawn").RawArray("B", sum(sizes))
        offset = 0
        for (name, (shape, dtype)), size in zip(shapes.items(), sizes, strict=True):
            view = np.frombuffer(self.memory, np.uint8, int(np.prod(shape)) * np.dtype(dtype).itemsize, offset)
            setattr(self, name, view.view(dtype).reshape(shape))
            offset += size

    action: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    success: np.ndarray
    truncated: np.ndarray
    seconds: np.ndarray
    pixels: np.ndarray


class _Share:
    """The simulators that one process hosts: rows ``rows`` of the arrays."""

    def __init__(self, agents: Sequence[Agent], settings: SimulatorSettings, arrays: _Arrays, rows: range) -> None:
        self.arrays, self.rows = arrays, rows
        self.simulators = [Simulator(agents[i].task, agents[i].seed, settings) for i in rows]
        self.frames = settings.render is not None

    def reset(self) -> None:
        for i, simulator in zip(self.rows, self.simulators, strict=True):
            self.arrays.observation[i] = simulator.reset()
            self._draw(i, simulator)

    def step(self) -> None:
        clock = _clock()
        next(clock)
        for i, simulator in zip(self.rows, self.simulators, strict=True):
            step = simulator.step(self.arrays.action[i])
            self.arrays.observation[i] = step.observation
            self.arrays.reward[i] = step.reward
            self.arrays.success[i] = step.success
            self.arrays.truncated[i] = step.truncated
            self.arrays.seconds[i, 0] = next(clock)
            self._draw(i, simulator)
            self.arrays.seconds[i, 1] = next(clock) if self.frames else 0.0

    def replay(self, actions: np.ndarray) -> None:
        """Step through recorded actions [T, rows, 4] without drawing, then draw once."""
        for t in range(len(actions)):
            for j, (i, simulator) in enumerate(zip(self.rows, self.simulators, strict=True)):
                self.arrays.observation[i] = simulator.step(actions[t, j]).observation
        for i, simulator in zip(self.rows, self.simulators, strict=True):
            self._draw(i, simulator)

    def random_states(self) -> list[dict[str, Any]]:
        return [simulator.random_state() for simulator in self.simulators]

    def set_random_states(self, states: list[dict[str, Any]]) -> None:
        for simulator, state in zip(self.simulators, states, strict=True):
            simulator.set_random_state(state)

    def close(self) -> None:
        for simulator in self.simulators:
            simulator.close()

    def _draw(self, i: int, simulator: Simulator) -> None:
        if self.frames:
            simulator.frame(self.arrays.pixels[i])


def _clock() -> Iterator[float]:
    """The seconds since it was last asked."""
    last = perf_counter()
    while True:
        now = perf_counter()
        yield now - last
        last = now


def _work(
    connection: Connection,
    agents: Sequence[Agent],
    settings: SimulatorSettings,
    memory: Any,
    rows: range,
    parent: int,
) -> None:
    """A worker's life: obey commands until told to close or the parent is gone."""
    if sys.platform == "linux":  # a parent killed with -9 takes its workers with it, even in mid-step
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before that
            return
    try:
        share = _Share(agents, settings, _Arrays(len(agents), settings.render is not None, memory), rows)
        connection.send(None)
        while True:
            name, args = connection.recv()
            result = getattr(share, name)(*args)
            connection.send(result)
            if name == "close":
                break
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send(WorkerError(f"{type(error).__name__}: {error}", traceback.format_exc()))
    close_gl()


class WorkerError(RuntimeError):
    """A worker process failed; the message is its error, ``details`` its traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message, details)
        self.details = details

    def __str__(self) -> str:
        return str(self.args[0])


class Fleet:
    """Simulators of a population, one an agent.

    Args:
        agents: A agents, in the order of the arrays' rows.
        settings: what all simulators share.
        num_workers: processes to share them out over; 0 hosts all in this one. There are never
            more than agents.

    Attributes:
        arrays: observation [A, 39], reward [A], success [A], truncated [A], pixels [A, 192, 192, 3]
            of the last call, and action [A, 4] that the next step will take.
    """

    def __init__(self, agents: Sequence[Agent], settings: SimulatorSettings, num_workers: int = 0) -> None:
        self.agents, self.settings = list(agents), settings
        num = len(self.agents)
        self.arrays = _Arrays(num, settings.render is not None)
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        self._local: _Share | None = None
        num_workers = min(num_workers, num)
        if num_workers == 0:
            self._local = _Share(self.agents, settings, self.arrays, range(num))
            self._rows = [range(num)]
            return
        bounds = [num * w // num_workers for w in range(num_workers + 1)]
        self._rows = [range(a, b) for a, b in itertools.pairwise(bounds)]
        context = multiprocessing.get_context("spawn")
        # Software OpenGL starts a thread a core in each process; the workers are the parallelism.
        previous = os.environ.get("LP_NUM_THREADS")
        os.environ.setdefault("LP_NUM_THREADS", str(max(0, (os.cpu_count() or 1) // num_workers - 1)))
        atexit.register(self.close, force=True)
        # A signal to the whole process group is the parent's to decide on: workers start, and stay, deaf to it.
        deaf = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for rows in self._rows:
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work,
                    args=(theirs, self.agents, settings, self.arrays.memory, rows, os.getpid()),
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._processes.append(process)
                self._connections.append(ours)
        finally:
            if previous is None:
                os.environ.pop("LP_NUM_THREADS", None)
            signal.pthread_sigmask(signal.SIG_SETMASK, deaf)
        self._receive()

    def _send(self, name: str, *args: Sequence[Any]) -> None:
        """Start a command everywhere; each of ``args`` holds one argument a share."""
        shares = zip(*args, strict=True) if args else [()] * len(self._connections)
        for connection, arguments in zip(self._connections, shares, strict=True):
            connection.send((name, arguments))

    def _receive(self) -> list[Any]:
        results = []
        for connection in self._connections:
            try:
                result = connection.recv()
            except (EOFError, ConnectionResetError):
                result = WorkerError("a worker process ended unexpectedly (killed, or out of memory?)")
            if isinstance(result, WorkerError):
                self.close(force=True)
                raise result
            results.append(result)
        return results

    def _call(self, name: str, *args: Sequence[Any]) -> list[Any]:
        if self._local is not None:
            return [getattr(self._local, name)(*(arg[0] for arg in args))]
        self._send(name, *args)
        return self._receive()

    def reset(self) -> None:
        """Begin an episode everywhere; fills ``observation`` and ``pixels``."""
        self._call("reset")

    def step(self) -> None:
        """Take ``arrays.action`` everywhere; fills all other arrays."""
        self._call("step")

    def replay(self, actions: np.ndarray) -> None:
        """Step through recorded actions, float32 [T, A, 4], drawing only at the end."""
        self._call("replay", [actions[:, rows.start : rows.stop] for rows in self._rows])

    def random_states(self) -> list[dict[str, Any]]:
        """Every simulator's random state, in the agents' order."""
        return [state for share in self._call("random_states") for state in share]

    def set_random_states(self, states: list[dict[str, Any]]) -> None:
        """Put back what :meth:`random_states` gave; takes effect at the next reset."""
        self._call("set_random_states", [states[rows.start : rows.stop] for rows in self._rows])

    def close(self, force: bool = False) -> None:
        """Free renderers and end the workers; a second call does nothing."""
        atexit.unregister(self.close)
        if self._local is not None:
            self._local.close()
            self._local = None
        if self._connections:
            if not force:
                with contextlib.suppress(OSError, EOFError):
                    self._send("close")
                    for connection in self._connections:
                        connection.recv()
            for connection in self._connections:
                connection.close()
            for process in self._processes:
                process.join(timeout=0 if force else 5)
                if process.is_alive():
                    process.kill()
                    process.join()
            self._connections, self._processes = [], []
