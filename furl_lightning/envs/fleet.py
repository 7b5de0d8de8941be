"""Many simulators marching in lockstep, in this process or shared out over worker processes.

Workers and parent exchange commands by pipe and arrays by shared memory. The same simulators give
the same arrays however they are shared out. Imports no torch: a worker starts in a second or two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from mmap import mmap
from time import perf_counter
from typing import Any

import numpy as np

from furl_lightning.envs.rendering import close_gl
from furl_lightning.envs.shared_memory import SharedMemory
from furl_lightning.envs.simulator import Simulator, SimulatorSettings
from furl_lightning.envs.simulators import make_simulator
from furl_lightning.envs.workers import TIMEOUT, Workers
from furl_lightning.tasks import Agent


class _Arrays:
    """The fleet's state of the moment, views of one block of memory that processes can share."""

    def __init__(self, num: int, settings: SimulatorSettings, memory: mmap | None = None) -> None:
        block = np.zeros(self.size(num, settings), np.uint8) if memory is None else np.frombuffer(memory, np.uint8)
        offset = 0
        for name, (shape, dtype) in self._shapes(num, settings).items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            setattr(self, name, block[offset : offset + size].view(dtype).reshape(shape))
            offset += -(-size // 64) * 64

    @staticmethod
    def _shapes(num: int, settings: SimulatorSettings) -> dict[str, tuple[tuple[int, ...], Any]]:
        frames = 0 if settings.render is None else num
        return {
            "action": ((num, settings.action_dim), np.float32),
            "observation": ((num, settings.observation_dim), np.float32),
            "reward": ((num,), np.float32),
            "success": ((num,), np.bool_),
            "truncated": ((num,), np.bool_),
            "seconds": ((num, 2), np.float64),  # spent stepping and rendering in the last call
            "pixels": ((frames, settings.size, settings.size, 3), np.uint8),
        }

    @classmethod
    def size(cls, num: int, settings: SimulatorSettings) -> int:
        """Bytes of all of them."""
        shapes = cls._shapes(num, settings).values()
        return sum(-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for shape, dtype in shapes)

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
        self.simulators = [make_simulator(agents[i].task, agents[i].seed, settings) for i in rows]
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
        """Step through recorded actions [T, rows, action] without drawing, then draw once."""
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


class _Hosted(_Share):
    """A share that a worker process hosts."""

    def __init__(self, agents: Sequence[Agent], settings: SimulatorSettings, memory: SharedMemory, rows: range) -> None:
        super().__init__(agents, settings, _Arrays(len(agents), settings, memory.buffer), rows)

    def close(self) -> None:
        super().close()
        close_gl()


def _clock() -> Iterator[float]:
    """The seconds since it was last asked."""
    last = perf_counter()
    while True:
        now = perf_counter()
        yield now - last
        last = now


class Fleet:
    """Simulators of a population, one an agent.

    Args:
        agents: A agents, in the order of the arrays' rows.
        settings: what all simulators share.
        num_workers: processes to share them out over; 0 hosts all in this one. There are never
            more than agents.
        worker_timeout: seconds that a worker may take to answer.

    Raises:
        WorkerError: here and in every call: a worker failed, ended, or does not answer in time.

    Attributes:
        arrays: observation [A, obs], reward [A], success [A], truncated [A], pixels [A, size, size, 3]
            of the last call, and action [A, action] that the next step will take.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        settings: SimulatorSettings,
        num_workers: int = 0,
        worker_timeout: int = TIMEOUT,
    ) -> None:
        self.agents, self.settings = list(agents), settings
        num = len(self.agents)
        num_workers = min(num_workers, num)
        bounds = [num * w // num_workers for w in range(num_workers + 1)] if num_workers else [0, num]
        self._rows = [range(a, b) for a, b in itertools.pairwise(bounds)]
        self._local: _Share | None = None
        self._workers: Workers | None = None
        if num_workers == 0:
            self.arrays = _Arrays(num, settings)
            self._local = _Share(self.agents, settings, self.arrays, range(num))
            return
        memory = SharedMemory(_Arrays.size(num, settings))
        self.arrays = _Arrays(num, settings, memory.buffer)
        arguments = [(self.agents, settings, memory, rows) for rows in self._rows]
        contents = [_names([self.agents[i] for i in rows]) for rows in self._rows]
        self._workers = Workers(_Hosted, arguments, contents, worker_timeout)

    def _call(self, name: str, *args: Sequence[Any]) -> list[Any]:
        if self._local is not None:
            return [getattr(self._local, name)(*(arg[0] for arg in args))]
        assert self._workers is not None, "closed"
        return self._workers.call(name, *args)

    def reset(self) -> None:
        """Begin an episode everywhere; fills ``observation`` and ``pixels``."""
        self._call("reset")

    def step(self) -> None:
        """Take ``arrays.action`` everywhere; fills all other arrays."""
        self._call("step")

    def replay(self, actions: np.ndarray) -> None:
        """Step through recorded actions, float32 [T, A, action], drawing only at the end."""
        self._call("replay", [actions[:, rows.start : rows.stop] for rows in self._rows])

    def random_states(self) -> list[dict[str, Any]]:
        """Every simulator's random state, in the agents' order."""
        return [state for share in self._call("random_states") for state in share]

    def set_random_states(self, states: list[dict[str, Any]]) -> None:
        """Put back what :meth:`random_states` gave; takes effect at the next reset."""
        self._call("set_random_states", [states[rows.start : rows.stop] for rows in self._rows])

    def close(self) -> None:
        """Free renderers and end the workers; a second call does nothing."""
        if self._local is not None:
            self._local.close()
            self._local = None
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def _names(agents: Sequence[Agent]) -> str:
    """A worker's agents in few words."""
    return str(agents[0]) if len(agents) == 1 else f"{agents[0]} to {agents[-1]}, {len(agents)} agents"
