"""Forward passes without gradients, replayed as CUDA graphs: one launch in place of one for each kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GraphPerShape:
    """A function of one tensor that is replayed as a CUDA graph where its input is on a GPU.

    The first input of a shape is computed as usual, which also warms up the libraries; the second
    is captured; from then on the graph is replayed. So a shape that comes only once is never captured.
    On other devices the function is just called.

    Args:
        function: without gradients, control flow that depends on values, or side effects.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._warm: set[tuple[object, ...]] = set()
        self._graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def forget(self) -> None:
        """Drop all graphs: they read the parameters at the addresses of the time of their capture."""
        self._warm.clear()
        self._graphs.clear()

    def __call__(self, values: Tensor) -> Tensor:
        """The function's value, in a tensor that later calls do not overwrite."""
        if values.device.type != "cuda":
            return self.function(values)
        key = (values.shape, values.stride(), values.dtype, values.device)
        if key not in self._warm:
            self._warm.add(key)
            return self.function(values)
        if key not in self._graphs:
            self._graphs[key] = self._capture(values)
        graph, graph_input, graph_output = self._graphs[key]
        graph_input.copy_(values)
        graph.replay()
        return graph_output.clone()

    def _capture(self, values: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        graph_input = values.clone()
        graph = torch.cuda.CUDAGraph()
        apart = "thread_local"  # a collector's thread may capture while the learner goes on
        with torch.cuda.device(values.device), torch.cuda.graph(graph, capture_error_mode=apart):
            graph_output = self.function(graph_input)
        return graph, graph_input, graph_output
