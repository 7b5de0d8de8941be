"""Settings of the environments, as the command line has them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from furl_lightning.envs.simulator import GoalMode, SimulatorSettings
from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.tasks import EPISODE_STEPS, METAWORLD
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.settings import AtLeast, Between, Settings

RewardKind = Literal["sparse", "dense"]
ObservationKind = Literal["state", "pixels"]
Render = Literal["auto", "light", "fast", "full"]


@dataclass(frozen=True)
class EnvSettings(Settings, option="data.env"):
    """The environments."""

    goal: GoalMode = "fixed"
    """fixed: placed once from the seed, Meta-World's goal hidden; random: placed anew at each reset, goal observed."""
    simulator: str = METAWORLD
    """MetaWorld, Fetch, Gymnasium, or the import path of a class of your own: see docs/own_task.md. As the value of
    data.env itself, --data.env Fetch, it means the same."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the simulator's class, such as Gymnasium's ids: {reach: FetchReach-v4}."""
    reward: RewardKind = "sparse"
    """The task's reward: sparse (success - 1) or dense (the environment's own)."""
    episode_steps: Annotated[int, AtLeast(1)] = EPISODE_STEPS
    """Steps of an episode, at most the environment's own; Meta-World's have 500, other protocols have fewer."""
    action_repeat: Annotated[int, AtLeast(1)] = 1
    """Steps that each action is taken for. Rewards are per action: dense ones summed over its steps, sparse ones by the
    success after the last of them; so are transitions and updates. Whatever counts steps counts the simulator's."""
    obs: ObservationKind = "state"
    """What policies see: state, or pixels, the last three frames (DrQ)."""
    pixel_size: Annotated[int, Between(15, FRAME_SIZE)] = 84  # four convolutions leave nothing of a smaller one
    """Side of the frames that policies see; at most the size of the picture that is drawn."""
    render: Render = "auto"
    """full (the simulator's own picture), fast (no shadows, reflections, multisampling), light (as fast, with a tenth
    of the meshes' faces, at the size that the VLM sees); auto: what the VLM asks for, or fast."""
    camera: str | None = None
    """The model's camera that draws the picture, its whole view, turned upright; null: the usual one, for Meta-World
    the centre of the view of corner2, as published, which is all that the embedded model has seen."""
    mirror: bool = False
    """Feed the VLM the mirror image, as the published code does."""
    bgr: bool = False
    """Feed the VLM channels in BGR order, as the published code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.simulator == METAWORLD and self.episode_steps > EPISODE_STEPS:
            raise BadInput(f"{self.option}.episode_steps must be {Between(1, EPISODE_STEPS)}, not {self.episode_steps}")
        if self.simulator == METAWORLD and self.options:
            raise BadInput(f"{self.option}.options must be empty with {self.option}.simulator {METAWORLD}")
        if self.episode_steps % self.action_repeat:
            raise BadInput(
                f"{self.option}.action_repeat must divide an episode's {self.episode_steps} steps "
                f"({self.option}.episode_steps), which {self.action_repeat} does not"
            )

    @property
    def episode_actions(self) -> int:
        """Actions of an episode."""
        return self.episode_steps // self.action_repeat

    def simulators(self, frames: bool, auto: RenderQuality = "fast", light_size: int = FRAME_SIZE) -> SimulatorSettings:
        """What every simulator is made with.

        Args:
            frames: whether it is to draw any.
            auto: what is drawn where ``render`` leaves it to the VLM.
            light_size: height and width of a light picture, pixels.

        Raises:
            BadInput: policies were to see larger frames than are drawn.
        """
        render = auto if self.render == "auto" else self.render
        size = light_size if render == "light" else FRAME_SIZE
        if self.obs == "pixels" and self.pixel_size > size:
            raise BadInput(
                f"{self.option}.pixel_size must be at most {size}, the side of the picture that is drawn, not "
                f"{self.pixel_size}; set a smaller one, or {self.option}.render fast"
            )
        settings = SimulatorSettings(
            self.goal,
            None,
            self.mirror,
            self.bgr,
            self.episode_steps,
            action_repeat=self.action_repeat,
            camera=self.camera,
            simulator=self.simulator,
            options=self.options,
        )
        return replace(settings, render=render, size=size) if frames else settings
