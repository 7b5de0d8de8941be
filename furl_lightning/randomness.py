"""Random numbers of the agents: each agent draws from generators of its own.

So an agent's draws depend on its task and seed alone, not on who else is in the population; and
acting and learning draw from separate streams, so that neither shifts the other's numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
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

    def state_dict(self, streams: Sequence[str] = STREAMS) -> dict[str, Tensor]:
        """The generators' states, uint8 [A, bytes] by stream."""
        return {stream: torch.stack([g.get_state() for g in getattr(self, stream)]) for stream in streams}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state_dict` gave."""
        for stream in STREAMS:
            for generator, saved in zip(getattr(self, stream), state[stream], strict=True):
                generator.set_state(saved.clone())


def _generator(agent: Agent, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(f"{agent.task}/{agent.seed}/{stream}"))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


# The learner draws from no global generator. A VLM or a callback of somebody else may.


def seed_global(agents: Sequence[Agent]) -> None:
    """Seed PyTorch's, NumPy's and Python's global generators by the population."""
    seed = _seed(" ".join(map(str, agents)))
    torch.manual_seed(seed)  # every device's
    np.random.seed(seed % 2**32)
    random.seed(seed)


def global_states() -> dict[str, Any]:
    """The global generators' states, as tensors and plain Python values."""
    state: Any = np.random.get_state()
    _, key, *rest = state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [torch.from_numpy(key.astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def set_global_states(states: dict[str, Any]) -> None:
    """Put back what :func:`global_states` gave, on the devices that are there."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
    key, *rest = states["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])


def normal(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal numbers [len(generators), *shape], a row from each generator."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def coloured_normal(generators: Sequence[torch.Generator], beta: float, *shape: int) -> Tensor:
    """Normal numbers [len(generators), *shape], each standard, correlated along the axis before the last.

    Their power at frequency f falls as 1 / f^beta: 0 white, 1 pink, 2 red. White noise is filtered by f^(-beta / 2),
    with 1 / length in place of lower frequencies, as Timmer & König 1995 make it and Eberhard et al. 2023, "Pink Noise
    Is All You Need: Colored Noise Exploration in Deep Reinforcement Learning", take it to explore.
    """
    length = shape[-2]
    gain = torch.fft.fftfreq(length).abs().clamp(min=1 / length) ** (-beta / 2)
    gain = (gain / gain.square().mean().sqrt())[: length // 2 + 1, None]
    return torch.fft.irfft(torch.fft.rfft(normal(generators, *shape), dim=-2) * gain, length, dim=-2)


def uniform_actions(generators: Sequence[torch.Generator], action_dim: int) -> Tensor:
    """Uniform actions in [-1, 1], [len(generators), action_dim], a row from each generator."""
    return torch.stack([torch.rand(action_dim, generator=g) for g in generators]) * 2.0 - 1.0
