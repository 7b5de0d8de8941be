"""What a checkpoint must have in common with the run that resumes from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm.prompts import sentences_of

if TYPE_CHECKING:
    from furl_lightning.training.module import FuRLModule


class OtherRun(BadInput):
    """A checkpoint that does not belong to the run that was to be resumed."""


def run_identity(module: FuRLModule, data: FuRLDataModule) -> dict[str, str]:
    """The settings that make the tensors of a run, or their meaning, by the options that set them."""
    vlm, reward, relay = module.vlm, module.reward_settings, module.relay_settings
    sac, alignment, env = module.sac_settings, module.alignment_settings, data.env_settings
    baseline = f" ({reward.baseline_prompt}, {reward.baseline_strength})" if reward.baseline_prompt else ""
    return {
        "population (data.tasks x data.seeds)": " ".join(str(agent) for agent in data.agents),
        "data.env.goal": env.goal,
        "data.env.reward": env.reward,
        "data.env.episode_steps": str(env.episode_steps),
        "data.env.obs": "state" if data.pixel_size is None else f"pixels of size {data.pixel_size}",
        "data.goal_image": str(data.goal_image),
        "frames (data.env.render, data.env.mirror, data.env.bgr)": str(data.simulators),
        "instructions (data.prompts)": " | ".join(" + ".join(sentences_of(p)) for p in data.instructions),
        "model.vlm": f"{vlm.name} of width {vlm.width}, fingerprint {vlm.fingerprint[:16]}" if vlm else "null",
        "model.reward.source": reward.source + baseline,
        "model.relay.enabled": str(relay.enabled),
        "model.relay.counts": relay.counts if relay.enabled else "nothing",
        "model.sac.hidden": str(list(sac.hidden)),
        "model.sac.critic_layer_norm": str(sac.critic_layer_norm),
        "successful episodes (data.replay.success_share)": "kept" if data.replay_settings.success_share else "not kept",
        "heads (model.alignment.hidden, model.alignment.width)": f"{alignment.hidden}, {alignment.width}",
        "data.replay.size": str(data.replay_settings.size),
        "data.memory.size": str(data.memory_settings.size),
    }


def refuse_other_run(checkpoint: dict[str, Any], module: FuRLModule, data: FuRLDataModule) -> None:
    """Compare a checkpoint with a module and its data module.

    Raises:
        OtherRun: it is of another population, VLM, goal mode, network or the like; names each.
    """
    theirs, ours = checkpoint.get("identity", {}), run_identity(module, data)
    differences = [
        f"{name} is {ours[name]}, the checkpoint's is {theirs.get(name, 'unknown')}"
        for name in ours
        if ours[name] != theirs.get(name)
    ]
    if differences:
        raise OtherRun(f"the checkpoint is of another run: {'; '.join(differences)}")
