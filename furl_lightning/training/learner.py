"""What the data module asks of the module that it collects for."""

from __future__ import annotations

from typing import Protocol

import torch

from furl_lightning.agents.sac import SAC
from furl_lightning.method.relay import Relay
from furl_lightning.vlm import VLM


class Learner(Protocol):
    """A method's switches and parts; what is None is not there, and nothing is collected for it."""

    @property
    def device(self) -> torch.device:
        """Where it learns."""

    @property
    def vlm(self) -> VLM | None:
        """Embeds the frames."""

    @property
    def reward_source(self) -> str:
        """What is added to the task's reward; ``aligned`` trains heads."""

    @property
    def trains_heads(self) -> bool:
        """Whether it draws from a success memory."""

    @property
    def relaying(self) -> bool:
        """Whether two agents take turns."""

    @property
    def relay_counts(self) -> str:
        """What ends that: ``positives`` or ``successes``."""

    @property
    def relay(self) -> Relay | None:
        """Whose turn it is."""

    @property
    def vlm_agent(self) -> SAC | None:
        """Rewarded by the VLM too."""

    @property
    def sac_agent(self) -> SAC | None:
        """Rewarded by the task alone."""

    @property
    def evaluated_agent(self) -> SAC:
        """The one that acts where there is no relay."""

    @property
    def sac_noise(self) -> float:
        """Deviation of the extra noise on the SAC agent's actions."""
