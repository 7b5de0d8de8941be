"""Frozen forward passes replayed as CUDA graphs, which spares the launch of each kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GraphPerShape:
    """A function of one tensor that is replayed as a CUDA graph where its input is on a GPU.

    The first input of a shape is computed as usual, which also warms up the libraries; the second
    is captured; from then on the graph is replayed. So a shape that comes only once costs nothing.
    On any other device the function is just called.

    Args:
        function: without gradients, control flow that depends on values, or side effects.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._seen: set[tuple[object, ...]] = set()
        self._graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def forget(self) -> None:
        """Drop all graphs, for they read the parameters at the addresses that these had."""
        self._seen.clear()
        self._graphs.clear()

    def __call__(self, values: Tensor) -> Tensor:
        """The function's value; a tensor of its own, not the graph's."""
        if values.device.type != "cuda":
            return self.function(values)
        key = (values.shape, values.stride(), values.dtype, values.device)
        if key not in self._seen:
            self._seen.add(key)
            return self.function(values)
        if key not in self._graphs:
            self._graphs[key] = self._capture(values)
        graph, given, result = self._graphs[key]
        given.copy_(values)
        graph.replay()
        return result.clone()

    def _capture(self, values: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = values.clone()  # keeps the memory format
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(values.device), torch.cuda.graph(graph):
            result = self.function(given)
        return graph, given, result
