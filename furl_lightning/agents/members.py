"""Some of a population's agents: their index on a device, their rows gathered, their rows scattered among all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def index_of(agents: Sequence[int] | None, device: torch.device) -> Tensor | None:
    """The agents as int64 [K] on a device; None stands for all. Kept: a CUDA graph cannot fetch it anew."""
    return None if agents is None else _index(tuple(agents), device)


@lru_cache(maxsize=256)
def _index(agents: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(agents, device=device)


def gather_rows(values: Tensor, agents: Sequence[int] | None) -> Tensor:
    """The agents' rows [K, ...] of [A, ...]; all where None."""
    index = index_of(agents, values.device)
    return values if index is None else values.index_select(0, index)


def replace_rows(values: Tensor, agents: Sequence[int] | None, rows: Tensor) -> Tensor:
    """Values [A, ...] with the agents' rows replaced; ``rows`` where None."""
    index = index_of(agents, values.device)
    return rows if index is None else values.index_copy(0, index, rows)


def scatter_rows(values: Tensor, agents: Sequence[int] | None, num: int) -> Tensor:
    """The agents' values [K, ...] as [num, ...], NaN for the others; ``values`` where None."""
    return replace_rows(values.new_full((num, *values.shape[1:]), math.nan), agents, values)
