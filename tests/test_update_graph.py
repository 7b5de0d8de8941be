"""The update as a graph that is recorded once and replayed; without a GPU, by a recording of tensor operations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from furl_lightning.agents import optim
from furl_lightning.agents.update_graph import Tensors, UpdateGraph

from .test_population import PHASES, Population, assert_equal, make_updates

WAITING = {
    torch.ops.aten._local_scalar_dense.default: "a value is read back",
    torch.ops.aten.lift_fresh.default: "a tensor is made from Python's numbers",
}
"""What a CUDA graph cannot hold, as the operation that shows it on a CPU."""


class Tape(TorchDispatchMode):
    """Records operations; a replay makes them again with the same tensors, so what the host gave is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING:
            raise RuntimeError(f"not in a graph: {WAITING[func]}\nsecond line")
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # no view, not in place
                    old.detach().copy_(new)


def recorder(state: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Captures as CUDA does: what is recorded is not done until it is replayed."""

    @contextmanager
    def capturing() -> Iterator[None]:
        with monkeypatch.context() as context:
            context.setattr(optim, "_capturing", lambda values: True)
            yield

    def capture(function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        before = [values.detach().clone() for values in state()]
        tape = Tape()
        with capturing(), tape:
            results = function()
        for values, old in zip(state(), before, strict=True):
            values.detach().copy_(old)
        return tape.replay, results

    return capture


def state_of(population: Population) -> list[Tensor]:
    adam = [
        values for o in population.optimizers if o is not None for own in o.state.values() for values in own.values()
    ]
    return [*population.learner.parameters(), *adam]


def test_a_replayed_update_is_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four updates of each phase: an ordinary one, then one graph, replayed three times with other batches."""
    phases = [phase for phase in dict.fromkeys(map(repr, PHASES)) for _ in range(4)]
    chosen = [next(p for p in PHASES if repr(p) == phase) for phase in phases]
    updates = make_updates(len(chosen))
    eager, graphed = Population([0, 1, 2]), Population([0, 1, 2])
    captured: list[Any] = []
    record = recorder(lambda: state_of(graphed), monkeypatch)

    def capture(function: Callable[[], Tensors]) -> Any:
        captured.append(record(function))
        return captured[-1]

    graph = UpdateGraph(lambda members, inputs: graphed.learner.learn(members, inputs, graphed.optimizers), capture)
    measured = [{k: v.clone() for k, v in graph(*prepared).items()} for prepared in graphed.prepare(updates, chosen)]
    expected = eager.learn(updates, chosen)
    assert len(captured) == len(set(phases)) == 4 and not graph._failed
    for ours, theirs in zip(measured, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert_equal(*({name: values.nan_to_num(-7.0) for name, values in m.items()} for m in (ours, theirs)))
    for member in range(3):
        assert_equal(graphed.of(member), eager.of(member))


def test_what_cannot_be_captured_is_called(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, once, and the updates go on."""
    graph = UpdateGraph(lambda key, given: {"sum": given["x"] * float(given["x"].sum())}, recorder(list, monkeypatch))
    with caplog.at_level(logging.WARNING):
        for number in range(1, 5):
            x = torch.full((2,), float(number))
            assert torch.equal(graph("key", {"x": x})["sum"], 2.0 * x * number)
    assert [r.getMessage() for r in caplog.records] == [
        "updates are not captured as a CUDA graph: not in a graph: a value is read back"
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    """The real capture: near the update on the CPU, after every phase."""
    phases = [phase for phase in PHASES for _ in range(4)]
    updates = make_updates(len(phases))
    host, device = Population([0, 1, 2]), Population([0, 1, 2])
    device.learner.cuda()
    device.optimizers = device.learner.optimizers()
    graph = UpdateGraph(lambda members, inputs: device.learner.learn(members, inputs, device.optimizers))
    measured = [{k: v.cpu() for k, v in graph(*prepared).items()} for prepared in device.prepare(updates, phases)]
    assert graph._replay is not None and not graph._failed
    for ours, theirs in zip(measured, host.learn(updates, phases), strict=True):
        for name, values in theirs.items():
            torch.testing.assert_close(ours[name], values, rtol=1e-2, atol=1e-3, equal_nan=True)
