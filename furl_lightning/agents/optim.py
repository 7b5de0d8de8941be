"""Adam for a population: each agent has moments and a step count of its own.

``torch.optim.Adam`` would move an agent whose gradient is zero (its first moment is not), and
counts steps for all at once; agents leave the relay, or have nothing to align yet, one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class PopulationAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1) on parameters whose first axis is the agents'.

    Args:
        params: parameters [A, ...].
        lr: learning rate.
        decayed: those of them that shrink by lr * weight_decay of themselves at each step, apart from their gradient
            (AdamW: Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2). Not part of the state.
        weight_decay: how much.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decayed: Iterable[Tensor] = (),
        weight_decay: float = 0.0,
    ) -> None:
        # "fused" has the base class restore step counts to the parameters' device, where the kernel wants them.
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "fused": True})
        self._together = True
        self.decayed, self.weight_decay = list(decayed) if weight_decay else [], weight_decay
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": torch.zeros(p.shape[0], device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }

    @torch.no_grad()
    def step(self, closure: Any = None, agents: Sequence[int] | None = None) -> None:  # type: ignore[override]
        """One step from the parameters' ``grad`` [A, ...], for all agents or the given ones."""
        for group in self.param_groups:
            members: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not members or (agents is not None and not len(agents)):
                continue
            states = [self.state[p] for p in members]
            counts = states[0]["step"]
            if agents is not None:
                self._together = False
            elif not _capturing(counts):  # a graph cannot look, but an ordinary step came before it
                self._together = bool((counts == counts[0]).all())
            together = self._together
            indices = range(len(counts)) if agents is None else agents
            steps = [s["step"][i] for s in states for i in ([0] if together else indices)]
            torch._foreach_add_([s["step"] for s in states] if together else steps, 1.0)
            columns: list[list[Tensor]] = [
                members,
                # The kernel walks through memory: a gradient with other strides would be taken entry for wrong entry.
                [p.grad.contiguous() for p in members if p.grad is not None],
                [s["exp_avg"] for s in states],
                [s["exp_avg_sq"] for s in states],
            ]
            if not together:
                columns = [[t[i] for t in column for i in indices] for column in columns]
            if self.decayed:
                rows = self.decayed if agents is None else [p[i] for p in self.decayed for i in agents]
                torch._foreach_mul_(rows, 1.0 - group["lr"] * self.weight_decay)
            # The kernel behind torch.optim.Adam(fused=True): one pass over the four arrays.
            params, grads, averages, squares = columns
            torch._fused_adam_(
                params,
                grads,
                averages,
                squares,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


def _capturing(values: Tensor) -> bool:
    return values.is_cuda and torch.cuda.is_current_stream_capturing()
