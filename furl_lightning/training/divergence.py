"""Agents whose numbers are not finite any more: they are named, and the run ends before they are saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from furl_lightning.method.learner import Learner, Metrics
from furl_lightning.tasks import Agent


class Diverged(ArithmeticError):
    """An agent's losses or parameters are not finite any more."""


def refuse_nan_losses(metrics: Metrics, learner: Learner, agents: Sequence[Agent], env_steps: int) -> None:
    """Look for losses that are no numbers; one sum says whether there is any.

    Raises:
        Diverged: with the agents' names.
    """
    learns, losses = learner.sac_learns, []
    for name in ("critic_loss", "actor_loss"):
        if f"sac/{name}/vlm_agent" in metrics:
            losses.append(metrics[f"sac/{name}/vlm_agent"])
        if f"sac/{name}/sac_agent" in metrics:
            loss = metrics[f"sac/{name}/sac_agent"]
            losses.append(loss.where(learns.to(loss.device), torch.zeros_like(loss)))
    total = torch.stack(losses).sum(0)
    if not total.sum().isfinite():
        names = ", ".join(str(agent) for agent, t in zip(agents, total, strict=True) if not t.isfinite())
        raise Diverged(f"losses of {names or 'the population'} are no finite numbers at step {env_steps}")


def refuse_nan_parameters(learner: Learner, agents: Sequence[Agent], env_steps: int) -> None:
    """Look for parameters that are no finite numbers.

    Raises:
        Diverged: with the agents' names.
    """
    finite = torch.ones(len(agents), dtype=torch.bool)
    for values in learner.parameters():
        finite &= values.isfinite().reshape(len(agents), -1).all(1).cpu()
    if not finite.all():
        names = ", ".join(str(agent) for agent, good in zip(agents, finite, strict=True) if not good)
        raise Diverged(f"parameters of {names} are no finite numbers at step {env_steps}")
