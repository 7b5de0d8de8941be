"""What a checkpoint must have in common with the run that resumes from it."""

from __future__ import annotations

import json
import re
from typing import Any

from furl_lightning.agents.sac import SACSettings
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.goal_markers import MENDED
from furl_lightning.envs.rendering import METAWORLD_CAMERA
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.method.alignment import AlignmentSettings
from furl_lightning.method.learner import RewardSettings
from furl_lightning.method.relay import RelaySettings
from furl_lightning.pictures import FRAME_SIZE
from furl_lightning.tasks import METAWORLD
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM
from furl_lightning.vlm.prompts import sentences_of

MARKERS = "goal markers at the goal"
EARLIER_EMBEDDED = "fingerprint 2ab855782b3f80ec"
INSTRUCTIONS = "instructions (data.prompts)"
GOAL_FILES = "goal images from files (data.goal_images)"
FRAMES = "frames (data.env.render, data.env.mirror, data.env.bgr)"

RESIDUAL = "residual critics (model.sac.critic_blocks, model.sac.critic_width)"
CATEGORICAL = "categorical critics (model.sac.critic_bins, model.sac.critic_range)"
LATER_OPTIONS = {
    "data.env.simulator": METAWORLD,
    "data.env.action_repeat": "1",
    GOAL_FILES: "none",
    RESIDUAL: "none",
    CATEGORICAL: "none",
}
"""What runs did before they could be told otherwise, which their checkpoints do not say."""


class OtherRun(BadInput):
    """A checkpoint that does not belong to the run that was to be resumed."""


def run_identity(
    vlm: VLM | None,
    reward: RewardSettings,
    alignment: AlignmentSettings,
    relay: RelaySettings,
    sac: SACSettings,
    data: FuRLDataModule,
) -> dict[str, str]:
    """The settings that make the tensors of a run, or their meaning, by the options that set them."""
    env = data.env_settings
    baseline = f" ({reward.baseline_prompt}, {reward.baseline_strength})" if reward.baseline_prompt else ""
    mended = (
        {agent.task for agent in data.agents} & MENDED.keys()
        if data.simulators.render is not None and env.simulator == METAWORLD
        else set()
    )
    return {
        "population (data.tasks x data.seeds)": " ".join(str(agent) for agent in data.agents),
        "data.env.simulator": _simulator(data.simulators),
        "data.env.goal": env.goal,
        "data.env.reward": env.reward,
        "data.env.episode_steps": str(env.episode_steps),
        "data.env.action_repeat": str(env.action_repeat),
        "data.env.obs": "state" if data.pixel_size is None else f"pixels of size {data.pixel_size}",
        "data.goal_image": str(data.goal_image),
        GOAL_FILES: f"of {', '.join(sorted(data.goal_files))}" if data.goal_files else "none",
        FRAMES: frames_identity(data.simulators),
        INSTRUCTIONS: " | ".join(" + ".join(sentences_of(p)) for p in data.instructions),
        "model.vlm": f"{vlm.name} of width {vlm.width}, fingerprint {vlm.fingerprint[:16]}" if vlm else "null",
        "model.reward.source": reward.source + baseline,
        "model.relay.enabled": str(relay.enabled),
        "model.relay.counts": relay.counts if relay.enabled else "nothing",
        "model.sac.hidden": str(list(sac.hidden)),
        "model.sac.critic_layer_norm": str(sac.critic_layer_norm),
        RESIDUAL: f"{sac.critic_blocks} blocks of width {sac.critic_width}" if sac.critic_blocks else "none",
        CATEGORICAL: f"{sac.critic_bins} bins over {list(sac.critic_range)}" if sac.critic_bins else "none",
        "successful episodes (data.replay.success_share)": "kept" if data.replay_settings.success_share else "not kept",
        "heads (model.alignment.hidden, model.alignment.width)": f"{alignment.hidden}, {alignment.width}",
        "data.replay.size": str(data.replay_settings.size),
        "data.memory.size": str(data.memory_settings.size),
        **({MARKERS: ", ".join(sorted(mended))} if mended else {}),
    }


def frames_identity(simulators: SimulatorSettings) -> str:
    """What frames are like; of the usual size and camera as it was written when there were no others."""
    size, name = simulators.size, simulators.camera
    usual = name is None or (name == METAWORLD_CAMERA and simulators.simulator == METAWORLD)
    camera = "" if usual else f", camera {name}"
    return f"{simulators}{camera}" + ("" if size == FRAME_SIZE else f", {size} x {size} pixels")


def _simulator(simulators: SimulatorSettings) -> str:
    """Which it is, and the sizes of what it gives and takes."""
    if simulators.simulator == METAWORLD:
        return METAWORLD
    options = f" with {json.dumps(simulators.options, sort_keys=True, default=str)}" if simulators.options else ""
    sizes = f"observations of {simulators.observation_dim}, actions of {simulators.action_dim}"
    return f"{simulators.simulator}{options}, {sizes}"


def frame_size(identity: dict[str, str]) -> int:
    """Height and width in pixels of the frames that a run draws."""
    size = re.search(r", (\d+) x \1 pixels$", identity.get(FRAMES, ""))
    return int(size.group(1)) if size else FRAME_SIZE


def refuse_other_run(checkpoint: dict[str, Any], ours: dict[str, str], goes_on: bool = True) -> None:
    """Compare a checkpoint with a run's identity.

    Args:
        checkpoint: its contents.
        ours: of the run that is to use it.
        goes_on: whether pictures are to join those that the checkpoint's run has seen.

    Raises:
        OtherRun: it is of another population, VLM, goal mode, network or the like; names each. Or its pictures are
            those of a version that did not move goal markers to the goal.
    """
    theirs = LATER_OPTIONS | checkpoint.get("identity", {})
    differences = [
        f"{name} is {ours[name]}, the checkpoint's is {theirs.get(name, 'unknown')}"
        for name in ours
        if ours[name] != theirs.get(name) and name != MARKERS
    ]
    if differences:
        earlier = any(difference.endswith(EARLIER_EMBEDDED) for difference in differences)
        hint = " (the embedded model of earlier versions is EmbeddedCLIP today)" if earlier else ""
        raise OtherRun(f"the checkpoint is of another run: {'; '.join(differences)}{hint}")
    if goes_on and MARKERS in ours and MARKERS not in theirs:
        raise OtherRun(
            f"the checkpoint's run has seen pictures of {ours[MARKERS]} with goal markers off the goal, as an older "
            "version drew them: go on with the version that wrote it, or begin anew"
        )
