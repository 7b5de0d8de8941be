"""The LightningModule: the learner, the frozen VLM that embeds for it, and what Lightning does around them."""

from __future__ import annotations

import copy
import statistics
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from furl_lightning import __version__
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.sac import SACSettings
from furl_lightning.agents.update_graph import UpdateGraph
from furl_lightning.data.datamodule import FuRLDataModule, Iteration
from furl_lightning.method.alignment import AlignmentSettings
from furl_lightning.method.learner import Learner, Metrics, RewardSettings, refuse_contradictions
from furl_lightning.method.relay import RelaySettings
from furl_lightning.runs.machine import Machine
from furl_lightning.tasks import Agent
from furl_lightning.training.divergence import refuse_nan_losses
from furl_lightning.training.identity import refuse_other_run, run_identity
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM
from furl_lightning.vlm.prompts import embed_prompt

TRY_SECONDS, MOST_TRIES = 1.0, 12
"""How long, and how many times, an update is tried."""


class FuRLModule(LightningModule):
    """FuRL (arXiv 2406.00645) and its baselines, for the population of its data module.

    Args:
        vlm: the frozen vision-language model that scores frames against the instruction; null: none,
            the plain SAC agent acts alone.
        reward: what is added to the task's reward for the VLM agent.
        alignment: projection heads over the VLM's embeddings.
        relay: a plain SAC agent that takes turns with the VLM agent.
        sac: networks and learning of both agents.
        updates_per_step: updates of everything for each environment step, or each action where that is repeated.
        log_every: environment steps between logs of the learner's metrics.
        cuda_graph: on a GPU, replay the update as a CUDA graph.

    Raises:
        BadInput: a value that cannot be, or settings that contradict each other.
    """

    def __init__(
        self,
        vlm: VLM | None,
        reward: RewardSettings = RewardSettings(),
        alignment: AlignmentSettings = AlignmentSettings(),
        relay: RelaySettings = RelaySettings(),
        sac: SACSettings = SACSettings(),
        updates_per_step: int = 1,
        log_every: int = 500,
        cuda_graph: bool = True,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = True
        for name, value in dict(updates_per_step=updates_per_step, log_every=log_every).items():
            if value < 1:
                raise BadInput(f"model.{name} must be at least 1, not {value}")
        refuse_contradictions(vlm is not None, reward, relay)
        self.vlm, self.reward_settings, self.alignment_settings = vlm, reward, alignment
        self.relay_settings, self.sac_settings = relay, sac
        self.updates_per_step, self.log_every, self.cuda_graph = updates_per_step, log_every, cuda_graph
        self.learner: Learner | None = None
        self.agents: list[Agent] = []
        self.settings: dict[str, Any] | None = None
        """The arguments that this module and its data module were made with, by ``model`` and ``data``; plain types."""
        self.machine: Machine = {}
        """What the learner is being made with; see :mod:`furl_lightning.training.machine_record`."""
        self.metrics: Metrics = {}
        """Of the newest update."""
        self.update_seconds = 0.0
        """Spent on updates; whoever logs it begins anew."""

    # -- building

    def setup(self, stage: str) -> None:
        """Build the learner for the data module's population."""
        self.agree(self.data)
        if self.learner is None:
            self.build(self.data)

    def agree(self, data: FuRLDataModule) -> None:
        """Have the data module leave out what the method does not use.

        Raises:
            BadInput: one of its settings contradicts one of the method's; both are named.
        """
        source, vlm = self.reward_settings.source, self.vlm
        uses_goal = source in ("aligned", "goal_distance")
        if (data.goal_image or data.goal_files) and not uses_goal:
            given = "data.goal_image true is" if data.goal_image else "data.goal_images are"
            instead = "set data.goal_image false" if data.goal_image else "leave them out"
            raise BadInput(
                f"{given} for heads to align with, but model.reward.source {source} has none; "
                f"{instead} or set model.reward.source aligned"
            )
        if data.goal_image is False and source == "goal_distance":
            raise BadInput(
                "model.reward.source goal_distance is the distance to the goal image, but data.goal_image is false; "
                "set that true, or another source"
            )
        if data.goal_image is None:
            data.goal_image = uses_goal
        size, image_size = data.pixel_size, vlm.image_size if vlm is not None else None
        if size is not None and image_size is not None and size > image_size:
            raise BadInput(
                f"data.env.pixel_size {size} is more than model.vlm sees ({image_size}): the VLM is to have the "
                "larger picture; set a smaller data.env.pixel_size or name another VLM"
            )
        if vlm is not None:
            data.draw(True, vlm.render, vlm.picture_size)
        else:
            data.draw(size is not None)

    def build(self, data: FuRLDataModule) -> None:
        """Make the learner of a data module's population, with its initial weights.

        Raises:
            BadInput: an instruction that the VLM cannot read.
        """
        self.agents = data.agents
        text, baseline = self.embed_instructions(data)
        self.learner = Learner(
            data.randomness.init,
            data.simulators.observation_dim,
            data.simulators.action_dim,
            text,
            baseline,
            reward=self.reward_settings,
            sac=self.sac_settings,
            alignment=self.alignment_settings,
            relay=self.relay_settings,
            pixel_size=data.pixel_size,
        )

    def embed_instructions(self, data: FuRLDataModule) -> tuple[Tensor | None, Tensor | None]:
        """The VLM's embeddings of instructions, float32 [A, D], and of the baseline's sentence, [D]; on the CPU.

        Raises:
            BadInput: a sentence that the VLM cannot read.
        """
        if self.vlm is None:
            return None, None
        prompt, baseline = self.reward_settings.baseline_prompt, None
        if prompt is not None:
            baseline = embed_prompt(self.vlm, prompt, "model.reward.baseline_prompt").cpu()
        by_task = {agent.task: prompt for agent, prompt in zip(data.agents, data.instructions, strict=True)}
        text = {task: embed_prompt(self.vlm, prompt, f"data.prompts.{task}") for task, prompt in by_task.items()}
        return torch.stack([text[agent.task] for agent in data.agents]).cpu(), baseline

    @property
    def data(self) -> FuRLDataModule:
        """The data module that it is trained with."""
        data: FuRLDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    @property
    def built(self) -> Learner:
        """The learner, which must have been built."""
        assert self.learner is not None, "not built yet: see build()"
        return self.learner

    def configure_optimizers(self) -> list[PopulationAdam]:
        """One Adam each for the VLM agents, the SAC agents and the heads, where they are."""
        self._optimizers = self.built.optimizers()
        return [optimizer for optimizer in self._optimizers if optimizer is not None]

    def on_fit_start(self) -> None:
        """Connect the data module to the learner, which is on its device by now."""
        self.data.connect(self.built, self.vlm)
        self._graph = None
        if self.cuda_graph and self.built.device.type == "cuda":
            self._graph = UpdateGraph(lambda members, inputs: self.built.learn(members, inputs, self._optimizers))

    def on_train_start(self) -> None:
        """A resumed run learns at the rate that it is given, not at the checkpoint's."""
        rates = (self.sac_settings.lr, self.sac_settings.lr, self.alignment_settings.lr)
        for optimizer, lr in zip(self._optimizers, rates, strict=True):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = lr

    # -- learning

    def training_step(self, iteration: Iteration) -> None:
        """Let the relay look at an episode that has ended; make the updates for the iteration's actions."""
        learner, data = self.built, self.data
        if iteration.episode is not None and learner.relay is not None:
            learner.relay.retire(iteration.episode.successes[learner.relay.settings.counts])
        started = perf_counter()
        for _ in range(iteration.actions_to_learn * self.updates_per_step):
            members, inputs = learner.prepare(data.sample(), data.randomness.learning)
            if self._graph is not None:
                self.metrics = self._graph(members, inputs)
            else:
                self.metrics = learner.learn(members, inputs, self._optimizers)
            if self.device.type == "cpu":  # elsewhere looking is waiting: see training/metrics_log.py
                refuse_nan_losses(self.metrics, learner, self.agents, iteration.env_steps)
        self.update_seconds += perf_counter() - started

    def try_update(self) -> float:
        """Seconds of one action's updates, tried on a copy of the learner: the run's numbers stay as they are."""
        learner, data = copy.deepcopy(self.built), self.data
        optimizers = learner.optimizers()
        generators = [generator.clone_state() for generator in data.randomness.learning]
        took: list[float] = []
        while len(took) < 2 or (sum(took) < TRY_SECONDS and len(took) < MOST_TRIES):
            started = perf_counter()
            members, inputs = learner.prepare(data.experience.sample(generators), generators)
            for value in learner.learn(members, inputs, optimizers).values():
                value.cpu()  # waits for a GPU
            took.append(perf_counter() - started)
        return statistics.median(took[1:]) * self.updates_per_step  # the first ones are slow

    def frame_reward(self, agent: int, frames: Tensor) -> Tensor:
        """The VLM reward of one agent's frames, uint8 [T, H, W, 3], by the heads of the moment: [T] on the CPU."""
        assert self.vlm is not None
        return self.built.score(agent, self.vlm.encode_images(frames))

    # -- checkpoints

    def identity(self, data: FuRLDataModule) -> dict[str, str]:
        """What a checkpoint must have in common with the run of this module and a data module."""
        return run_identity(
            self.vlm, self.reward_settings, self.alignment_settings, self.relay_settings, self.sac_settings, data
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the relay and what the run is; drop Lightning's loop counters, for we count environment steps."""
        relay = self.built.relay
        checkpoint["relay"] = relay.state_dict() if relay is not None else None
        checkpoint["identity"] = self.identity(self.data)
        checkpoint["version"], checkpoint["settings"], checkpoint["machine"] = __version__, self.settings, self.machine
        checkpoint.pop("loops", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the relay back.

        Raises:
            OtherRun: the checkpoint is of another run.
        """
        refuse_other_run(checkpoint, self.identity(self.data))
        if self.built.relay is not None:
            self.built.relay.load_state_dict(checkpoint["relay"])
