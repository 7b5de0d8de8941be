"""Random numbers of the agents: each agent draws from generators of its own.

So an agent's draws depend on its task and seed alone, not on who else is in the population; and
acting and learning draw from separate streams, so that neither shifts the other's numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from furl_lightning.tasks import Agent

STREAMS = ("init", "exploration", "learning")


class Randomness:
    """Generators by stream: ``init`` (weights), ``exploration`` (acting, relay), ``learning`` (batches, noise).

    They live on the CPU, so that a run draws the same numbers on any device.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.init, self.exploration, self.learning = (
            [_generator(agent, stream) for agent in agents] for stream in STREAMS
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Every generator's state, uint8 [A, bytes] by stream."""
        return {stream: torch.stack([g.get_state() for g in getattr(self, stream)]) for stream in STREAMS}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state_dict` gave."""
        for stream in STREAMS:
            for generator, own in zip(getattr(self, stream), state[stream], strict=True):
                generator.set_state(own.clone())


def _generator(agent: Agent, stream: str) -> torch.Generator:
    digest = hashlib.sha256(f"{agent.task}/{agent.seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def normal(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal numbers [len(generators), *shape], a row from each generator."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def uniform_actions(generators: Sequence[torch.Generator], action_dim: int) -> Tensor:
    """Uniform actions in [-1, 1], [len(generators), action_dim], a row from each generator."""
    return torch.stack([torch.rand(action_dim, generator=g) for g in generators]) * 2.0 - 1.0
