"""Settings of the environments, as the command line has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from furl_lightning.envs.rendering import FRAME_SIZE, RenderQuality
from furl_lightning.envs.simulator import GoalMode, SimulatorSettings
from furl_lightning.tasks import EPISODE_STEPS
from furl_lightning.utils.settings import Between, Settings

RewardKind = Literal["sparse", "dense"]
ObservationKind = Literal["state", "pixels"]


@dataclass(frozen=True)
class EnvSettings(Settings, option="data.env"):
    """Meta-World's environments."""

    goal: GoalMode = "fixed"
    """fixed: placed once from the seed, goal hidden; random: placed anew at each reset, goal observed."""
    reward: RewardKind = "sparse"
    """The task's reward: sparse (success - 1) or dense (Meta-World's own)."""
    episode_steps: Annotated[int, Between(1, EPISODE_STEPS)] = EPISODE_STEPS
    """Steps of an episode; Meta-World's own have 500, other protocols have fewer."""
    obs: ObservationKind = "state"
    """What policies see: state, or pixels, the last three frames (DrQ)."""
    pixel_size: Annotated[int, Between(15, FRAME_SIZE)] = 84  # four convolutions leave nothing of a smaller one
    """Side of the frames that policies see; at most the size of the picture that is drawn."""
    render: RenderQuality = "fast"
    """fast (no shadows, reflections, multisampling) or full (the simulator's own picture)."""
    mirror: bool = False
    """Feed the VLM the mirror image, as the published code does."""
    bgr: bool = False
    """Feed the VLM channels in BGR order, as the published code does."""

    def simulators(self, frames: bool) -> SimulatorSettings:
        """What every simulator is made with, to draw frames or not."""
        render = self.render if frames else None
        return SimulatorSettings(self.goal, render, self.mirror, self.bgr, self.episode_steps)
