"""The LightningModule: both SAC populations, the VLM reward, the relay, and the frozen VLM; each may be absent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from furl_lightning import __version__
from furl_lightning.agents.encoder import ConvEncoder
from furl_lightning.agents.members import index_of, put_rows, rows_of, spread
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.sac import SAC
from furl_lightning.agents.update_graph import UpdateGraph
from furl_lightning.data.datamodule import Batch, Episode, FuRLDataModule, Iteration
from furl_lightning.envs.simulator import ACTION_DIM, OBS_DIM
from furl_lightning.method.alignment import AlignedReward
from furl_lightning.method.relay import Relay
from furl_lightning.method.zero_shot import ZeroShotReward
from furl_lightning.randomness import normal
from furl_lightning.tasks import Agent
from furl_lightning.vlm import VLM
from furl_lightning.vlm.prompts import Prompt, embed_prompts, sentences_of

RewardSource = Literal["aligned", "cosine", "goal_baseline", "task"]
RelayCount = Literal["positives", "successes"]


class FuRLModule(LightningModule):
    """FuRL's learner for a population of A agents (arXiv 2406.00645, algorithm 1), and its baselines.

    Args:
        vlm: the frozen vision-language model that scores frames against the instruction; null: none,
            the plain SAC agent acts alone.
        reward: what is added to the task's reward for the VLM agent: aligned: the cosine of FuRL's trained
            heads; cosine: that of the VLM's own embeddings (zero-shot); goal_baseline: the same with
            VLM-RM's regularisation towards a baseline; task: nothing, without a VLM.
        baseline_prompt: for goal_baseline: a sentence on what is there at any time, e.g. "a robot arm at a table".
        baseline_strength: for goal_baseline: strength of the regularisation, 0 (cosine) to 1.
        relay: let a plain SAC agent take turns with the VLM agent; false: the VLM agent acts alone.
        hidden: sizes of the hidden layers of actor and critics.
        lr: Adam's learning rate of actor, critics, temperature and heads.
        gamma: discount factor.
        tau: share of the new critic in the target copy after each update.
        init_alpha: temperature of both agents at the beginning.
        target_entropy: of both agents' policies, in nats; null: half the number of actions, negative (-2).
        rho: weight of the VLM reward beside the task's.
        head_hidden: hidden size of the projection heads.
        head_width: output size of the projection heads.
        margin: of the ranking losses, in cosine.
        l2_margin: of the goal phase's ordering of frames, in distance of VLM embeddings.
        relay_turns: lengths of the agents' turns, in environment steps, one drawn each episode.
        relay_threshold: what is counted for the relay's end ends it at this number.
        relay_counts: positives: frames in the success memory's ring; successes: environment steps in success.
        sac_noise: deviation of the Gaussian noise on the SAC agent's actions.
        critic_layer_norm: normalise the critics' hidden layers.
        log_every: environment steps between logs of the learner's metrics.
        cuda_graph: on a GPU, replay the update as a CUDA graph.
    """

    def __init__(
        self,
        vlm: VLM | None,
        reward: RewardSource = "aligned",
        baseline_prompt: str | None = None,
        baseline_strength: float = 0.5,
        relay: bool = True,
        hidden: Sequence[int] = (256, 256),
        lr: float = 1e-4,
        gamma: float = 0.99,
        tau: float = 0.01,
        init_alpha: float = 1.0,
        target_entropy: float | None = None,
        rho: float = 0.05,
        head_hidden: int = 256,
        head_width: int = 64,
        margin: float = 0.1,
        l2_margin: float = 0.25,
        relay_turns: Sequence[int] = (50, 100, 150, 200),
        relay_threshold: int = 2500,
        relay_counts: RelayCount = "positives",
        sac_noise: float = 0.2,
        critic_layer_norm: bool = False,
        log_every: int = 500,
        cuda_graph: bool = True,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = True
        for name, value in dict(
            lr=lr, init_alpha=init_alpha, head_hidden=head_hidden, head_width=head_width, log_every=log_every
        ).items():
            if value <= 0:
                raise ValueError(f"model.{name} must be above 0, not {value}")
        for name, value in dict(gamma=gamma, tau=tau, baseline_strength=baseline_strength).items():
            if not 0 <= value <= 1:
                raise ValueError(f"model.{name} must be between 0 and 1, not {value}")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"model.hidden must name at least one layer of at least one unit, not {list(hidden)}")
        if not relay_turns or min(relay_turns) < 1:
            raise ValueError(f"model.relay_turns must be at least one step each, not {list(relay_turns)}")
        self._refuse_contradictions(vlm, reward, relay)
        if reward == "goal_baseline" and not (baseline_prompt or "").strip():
            raise ValueError(
                "model.reward goal_baseline needs model.baseline_prompt, a sentence on what is there at any time, "
                "e.g. 'a robot arm at a table'"
            )
        if reward != "goal_baseline" and baseline_prompt is not None:
            raise ValueError(f"model.baseline_prompt is for model.reward goal_baseline, not {reward}; give one of both")
        self.vlm, self.reward_source, self.relaying = vlm, reward, relay
        self.baseline_prompt, self.baseline_strength = baseline_prompt, baseline_strength
        self.hidden, self.lr, self.gamma, self.tau, self.rho = tuple(hidden), lr, gamma, tau, rho
        self.init_alpha, self.target_entropy = init_alpha, target_entropy
        self.head_hidden, self.head_width = head_hidden, head_width
        self.margin, self.l2_margin = margin, l2_margin
        self.relay_turns, self.relay_threshold = tuple(relay_turns), relay_threshold
        self.relay_counts, self.sac_noise = relay_counts, sac_noise
        self.critic_layer_norm, self.log_every, self.cuda_graph = critic_layer_norm, log_every, cuda_graph
        self._graph = UpdateGraph(self._learn)
        self.vlm_agent: SAC | None = None
        self.sac_agent: SAC | None = None
        self.reward: AlignedReward | ZeroShotReward | None = None
        self.relay: Relay | None = None
        self.agents: list[Agent] = []
        self.settings: dict[str, Any] | None = None
        """The arguments that this module and its data module were made with, by ``model`` and ``data``; plain types."""
        self._measured: dict[str, Tensor] = {}
        self._update_seconds = 0.0
        self._logged = (0, perf_counter())

    @staticmethod
    def _refuse_contradictions(vlm: VLM | None, reward: RewardSource, relay: bool) -> None:
        refused = []
        if vlm is None and relay:
            refused.append("model.relay true needs a VLM agent to take turns with, but model.vlm is null")
        if vlm is None and reward != "task":
            refused.append(f"model.reward {reward} needs a VLM, but model.vlm is null")
        if vlm is not None and reward == "task":
            refused.append("model.reward task has no use for a VLM, but model.vlm is not null")
        if refused:
            hint = ": set model.reward task and model.relay false, or name a VLM" if vlm is None else ""
            raise ValueError("; ".join(refused) + hint)

    # -- building

    def setup(self, stage: str) -> None:
        """Build the learner for the data module's population."""
        data: FuRLDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        data.prepare_for(self)
        if not self.agents:
            self.build(data.agents, data.instructions, data.randomness.init, data.frame_size)

    def build(
        self,
        agents: Sequence[Agent],
        instructions: Sequence[Prompt],
        generators: Sequence[torch.Generator],
        frame_size: int | None = None,
    ) -> None:
        """Make the networks for a population, initialised from one generator an agent.

        They see stacks of frames of the given size, or states where it is None.
        """
        self.agents = list(agents)
        self._frame_size = frame_size
        if self.vlm is not None:
            self.vlm_agent = self._make_sac()
        if self.vlm is None or self.relaying:
            self.sac_agent = self._make_sac()
        self.reward = self.make_reward(instructions)
        for part in self._learners():
            if part is not None:
                part.reset_parameters(generators)
        if self.relaying:
            self.relay = Relay(len(self.agents), self.relay_turns, self.relay_threshold)

    def _make_sac(self) -> SAC:
        num, size = len(self.agents), self._frame_size
        encoder = ConvEncoder(num, size) if size is not None else None
        return SAC(
            num,
            encoder.width if encoder is not None else OBS_DIM,
            ACTION_DIM,
            self.hidden,
            self.gamma,
            self.tau,
            target_entropy=self.target_entropy,
            init_alpha=self.init_alpha,
            critic_layer_norm=self.critic_layer_norm,
            encoder=encoder,
        )

    def make_reward(self, instructions: Sequence[Prompt]) -> AlignedReward | ZeroShotReward | None:
        """The VLM reward for agents with these instructions; it reads them, so it refuses what cannot be read.

        Raises:
            ValueError: an instruction or a baseline prompt that the VLM cannot read.
        """
        if self.vlm is None:
            return None
        text = embed_prompts(self.vlm, instructions).cpu()
        if self.reward_source == "aligned":
            return AlignedReward(text, self.head_hidden, self.head_width, self.margin, self.l2_margin)
        baseline = embed_prompts(self.vlm, [self.baseline_prompt])[0].cpu() if self.baseline_prompt else None
        return ZeroShotReward(text, baseline, self.baseline_strength)

    @property
    def trains_heads(self) -> bool:
        """Whether the VLM reward has something to train."""
        return self.reward_source == "aligned"

    def _learners(self) -> tuple[SAC | None, SAC | None, AlignedReward | None]:
        return self.vlm_agent, self.sac_agent, self.reward if isinstance(self.reward, AlignedReward) else None

    @property
    def evaluated_agent(self) -> SAC:
        """The agents that the method is judged by: the VLM agents, or the SAC agents where there is no VLM."""
        agent = self.vlm_agent or self.sac_agent
        assert agent is not None, "not built yet"
        return agent

    def on_train_start(self) -> None:
        """A resumed run learns at the rate that it is given, not at the checkpoint's."""
        data: FuRLDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        self._logged = (data.env_steps, perf_counter())
        for optimizer in self._optimizers():
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = self.lr

    def configure_optimizers(self) -> list[PopulationAdam]:
        """One Adam each for the VLM agents, the SAC agents and the heads, where they are."""
        return [part.optimizer(self.lr) for part in self._learners() if part is not None]

    # -- learning

    def training_step(self, iteration: Iteration) -> None:
        """Make the updates that the iteration's environment steps allow."""
        data: FuRLDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        started = perf_counter()
        for _ in range(iteration.updates):
            self._measured = self.update(data.sample(), data.randomness.learning)
            if self.device.type == "cpu":
                self.refuse_nan(self._measured, iteration.env_steps)
        self._update_seconds += perf_counter() - started
        if iteration.episode is not None:
            self._log_episode(iteration.episode, iteration.env_steps)
        if iteration.env_steps % self.log_every < data.steps_per_iteration:
            if self._measured:  # elsewhere than on the CPU, looking is waiting; what is no number stays so
                self.refuse_nan(self._measured, iteration.env_steps)
            self._log_learner(iteration.env_steps)

    def update(
        self, batch: Batch, generators: Sequence[torch.Generator], noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One update of heads, VLM agents and the SAC agents still in the relay.

        Args:
            batch: transitions [A, B, ...] and the triples of agents past their first success.
            generators: one an agent; the noise is drawn from them where none is given.
            noise: standard normal [A, 4, B, action]: for the VLM agent's action and next action,
                then the SAC agent's; [A, 2, B, action] where only one of them learns.

        Returns:
            Metrics by tag, each [A], NaN where an agent has none.
        """
        device = self.evaluated_agent.log_alpha.device
        num, size = batch.transitions["reward"].shape
        if noise is None:
            noise = normal(generators, 2 * sum(a is not None for a in self._learners()[:2]), size, ACTION_DIM)
        inputs = {name: values.to(device) for name, values in batch.transitions.items()}
        inputs["noise"] = noise.to(device)
        if batch.triples is not None:
            inputs["triples"] = batch.triples.to(device)
        members = Members(
            relaying=_some(self._sac_learns().nonzero().flatten().tolist(), num),
            after=_some(batch.success_agents, num),
            before=_some(batch.goal_agents, num),
        )
        if self.cuda_graph and device.type == "cuda":
            return self._graph(members, inputs)
        return self._learn(members, inputs)

    def _learn(self, members: Members, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What :meth:`update` does on the device; may be captured as a CUDA graph, so it must not wait for values.

        Args:
            members: who learns what.
            inputs: the batch's transitions, ``noise``, and ``triples``.
        """
        torch.clear_autocast_cache()  # it would hold the parameters of the update before
        vlm_optimizer, sac_optimizer, reward_optimizer = self._optimizers()
        noise, num = inputs["noise"], len(inputs["reward"])
        measured: dict[str, Tensor] = {}
        if self.vlm_agent is not None:
            assert vlm_optimizer is not None
            cosine, measured = self._align(members, inputs, reward_optimizer)
            vlm_reward = inputs["reward"] + self.rho * cosine
            learned = self.vlm_agent.update(inputs, vlm_reward, noise[:, 0], noise[:, 1], vlm_optimizer)
            measured.update({f"sac/{name}/vlm_agent": values for name, values in learned.items()})
            measured["reward/vlm"] = cosine.mean(-1)
            measured["reward/vlm_min"] = cosine.amin(-1)
            measured["reward/vlm_max"] = cosine.amax(-1)
        some = members.relaying
        if some is None or len(some):
            assert self.sac_agent is not None and sac_optimizer is not None
            seen = ("observation", "next_observation", "action", "reward", "discount")
            rows = {name: rows_of(inputs[name], some) for name in seen}
            learned = self.sac_agent.update(
                rows, rows["reward"], rows_of(noise[:, -2], some), rows_of(noise[:, -1], some), sac_optimizer, some
            )
            measured.update({f"sac/{name}/sac_agent": spread(v, some, num) for name, v in learned.items()})
        return measured

    def _sac_learns(self) -> Tensor:
        """Agents whose SAC agent learns, bool [A]: those in the relay, or all where the SAC agent is alone."""
        if self.relay is not None:
            return self.relay.active
        return torch.full((len(self.agents),), self.sac_agent is not None)

    def refuse_nan(self, measured: dict[str, Tensor], env_steps: int) -> None:
        """Look for losses that are no numbers; one sum says whether there is any.

        Raises:
            Diverged: with the agents' names.
        """
        learns = self._sac_learns()
        losses = []
        for name in ("critic_loss", "actor_loss"):
            if f"sac/{name}/vlm_agent" in measured:
                losses.append(measured[f"sac/{name}/vlm_agent"])
            if f"sac/{name}/sac_agent" in measured:
                loss = measured[f"sac/{name}/sac_agent"]
                losses.append(loss.where(learns.to(loss.device), torch.zeros_like(loss)))
        total = torch.stack(losses).sum(0)
        if not total.sum().isfinite():
            names = ", ".join(str(agent) for agent, t in zip(self.agents, total, strict=True) if not t.isfinite())
            raise Diverged(f"losses of {names or 'the population'} are no finite numbers at step {env_steps}")

    def refuse_nonfinite(self, env_steps: int) -> None:
        """Look for parameters that are no finite numbers.

        Raises:
            Diverged: with the agents' names.
        """
        finite = torch.ones(len(self.agents), dtype=torch.bool)
        for values in self.parameters():
            finite &= values.isfinite().reshape(len(self.agents), -1).all(1).cpu()
        if not finite.all():
            names = ", ".join(str(agent) for agent, good in zip(self.agents, finite, strict=True) if not good)
            raise Diverged(f"parameters of {names} are no finite numbers at step {env_steps}")

    def _align(
        self, members: Members, inputs: dict[str, Tensor], optimizer: PopulationAdam | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Train the heads, if any; returns the batch's VLM rewards [A, B] from before that, and metrics [A].

        A zero-shot reward has nothing to train. With heads, an agent is in the goal phase until its
        success memory can be drawn from, then in the success phase. Without a goal image there is
        nothing to train on in the goal phase.
        """
        embedding = inputs["embedding"]
        if isinstance(self.reward, ZeroShotReward):
            return self.reward(embedding), {}
        assert optimizer is not None and self.reward is not None
        num, (_, after, before) = len(embedding), members
        if before is None:
            cosine, goal = self.reward.update_by_goal(embedding, inputs["goal_distance"], optimizer)
            return cosine, {f"alignment/{name}": values for name, values in goal.items()}
        measured: dict[str, Tensor] = {}
        with torch.no_grad():
            score = [i for i in range(num) if i not in before] if before else None
            cosine = spread(self.reward(rows_of(embedding, score), index_of(score, embedding.device)), score, num)
        if before:
            distance = rows_of(inputs["goal_distance"], before)
            seen, goal = self.reward.update_by_goal(rows_of(embedding, before), distance, optimizer, before)
            cosine = put_rows(cosine, before, seen)
            measured = {name: spread(values, before, num) for name, values in goal.items()}
        if after is None or after:
            for name, values in self.reward.update_by_success(inputs["triples"], optimizer, after).items():
                values = spread(values, after, num)
                measured[name] = values.where(~values.isnan(), measured[name]) if name in measured else values
        return cosine, {f"alignment/{name}": values for name, values in measured.items()}

    def _optimizers(self) -> Sequence[PopulationAdam | None]:
        """Of the VLM agents, the SAC agents and the heads; None for those that are absent."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        there = iter(optimizers if isinstance(optimizers, list) else [optimizers])
        return [None if part is None else next(there) for part in self._learners()]

    def frame_reward(self, agent: int, frames: Tensor) -> Tensor:
        """The VLM reward of one agent's frames, uint8 [T, H, W, 3], by the heads of the moment: [T] on the CPU."""
        assert self.vlm is not None
        return self.embedding_reward(agent, self.vlm.encode_images(frames))

    @torch.no_grad()
    def embedding_reward(self, agent: int, embedding: Tensor) -> Tensor:
        """The same for frames that are embedded already, [T, D]."""
        assert self.reward is not None
        device = self.reward.text_embedding.device
        return self.reward(embedding.to(device)[None], torch.tensor([agent], device=device))[0].cpu()

    # -- logging

    def _log_episode(self, episode: Episode, env_steps: int) -> None:
        self.log_agents(
            {
                "train/success": episode.success.float(),
                "train/success_any": episode.success_any.float(),
                "train/return": episode.returns,
            },
            env_steps,
        )

    def _log_learner(self, env_steps: int) -> None:
        data: FuRLDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        nothing = torch.full((len(self.agents),), math.nan)
        measured = {name: self._measured.get(name, nothing) for name in self.tags()}
        if data.remembers:
            measured["memory/positives"] = data.memory.positives.float()
            measured["memory/negatives"] = data.memory.negatives.float()
        if self.relay is not None:
            measured["relay/active"] = self.relay.active.float()
        self.log_agents(measured, env_steps)
        self.log_run({"replay/transition_bytes": data.replay.bytes_per_transition}, env_steps)
        steps_before, time_before = self._logged
        steps, elapsed = env_steps - steps_before, perf_counter() - time_before
        spent = {**data.take_seconds(), "update": self._update_seconds}
        self.log_run(
            {
                "perf/env_steps_per_s": steps * len(self.agents) / elapsed,
                **{f"perf/{part}_ms": 1000.0 * seconds / max(steps, 1) for part, seconds in spent.items()},
            },
            env_steps,
        )
        self._update_seconds = 0.0
        self._logged = (env_steps, perf_counter())

    def tags(self) -> list[str]:
        """Those of ``LEARNER_TAGS`` that this method has a value for."""
        absent = {"/vlm_agent": self.vlm_agent, "/sac_agent": self.sac_agent, "alignment/": self._learners()[2]}
        absent["reward/"] = self.vlm_agent
        return [tag for tag in LEARNER_TAGS if not any(p in tag and part is None for p, part in absent.items())]

    def log_agents(self, measured: dict[str, Tensor], env_steps: int) -> None:
        """Log metrics [A]: the mean over agents, over each task's agents, and, with several seeds, each agent's."""
        tasks: dict[str, list[int]] = {}
        for i, agent in enumerate(self.agents):
            tasks.setdefault(agent.task, []).append(i)
        scalars: dict[str, float] = {}
        for name, values in measured.items():
            values = values.detach().float().cpu()
            scalars[name] = float(values.nanmean())
            for task, members in tasks.items():
                scalars[f"{name}/{task}"] = float(values[members].nanmean())
                if len(members) > 1:
                    for i in members:
                        scalars[f"{name}/{self.agents[i]}"] = float(values[i])
        self.log_run(scalars, env_steps)

    def log_run(self, scalars: dict[str, float], env_steps: int) -> None:
        """Log scalars of the whole run at a number of environment steps."""
        for logger in self.trainer.loggers:
            logger.log_metrics(scalars, step=env_steps)

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the relay and what the run is; drop Lightning's loop counters, for we count environment steps."""
        checkpoint["relay"] = self.relay.state_dict() if self.relay is not None else None
        checkpoint["identity"] = self.identity(self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["version"], checkpoint["settings"] = __version__, self.settings
        checkpoint.pop("loops", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the relay back.

        Raises:
            OtherRun: see :meth:`refuse_other_run`.
        """
        self.refuse_other_run(checkpoint, self.trainer.datamodule)  # type: ignore[attr-defined]
        if self.relay is not None:
            self.relay.load_state_dict(checkpoint["relay"])

    def refuse_other_run(self, checkpoint: dict[str, Any], data: FuRLDataModule) -> None:
        """Compare a checkpoint with this module and data module.

        Raises:
            OtherRun: it is of another population, VLM, goal mode, network or the like; names each.
        """
        theirs, ours = checkpoint.get("identity", {}), self.identity(data)
        differences = [
            f"{name} is {ours[name]}, the checkpoint's is {theirs.get(name, 'unknown')}"
            for name in ours
            if ours[name] != theirs.get(name)
        ]
        if differences:
            raise OtherRun(f"the checkpoint is of another run: {'; '.join(differences)}")

    def identity(self, data: FuRLDataModule) -> dict[str, str]:
        """What a checkpoint must have in common with the run that resumes from it."""
        return {
            "population (data.tasks x data.seeds)": " ".join(str(agent) for agent in data.agents),
            "data.goal": data.goal,
            "data.reward": data.reward_kind,
            "data.obs": "state" if data.frame_size is None else f"pixels of size {data.frame_size}",
            "data.goal_image": str(data.goal_image),
            "frames (data.render, data.mirror, data.bgr)": str(data.settings),
            "instructions (data.prompts)": " | ".join(" + ".join(sentences_of(p)) for p in data.instructions),
            "model.vlm": f"{self.vlm.name} of width {self.vlm.width}, fingerprint {self.vlm.fingerprint[:16]}"
            if self.vlm is not None
            else "null",
            "model.reward": self.reward_source
            + (f" ({self.baseline_prompt}, {self.baseline_strength})" if self.baseline_prompt else ""),
            "model.relay": str(self.relaying),
            "model.relay_counts": self.relay_counts if self.relaying else "nothing",
            "model.hidden": str(list(self.hidden)),
            "model.critic_layer_norm": str(self.critic_layer_norm),
            "successful episodes (data.success_share)": "kept" if data.success_share else "not kept",
            "heads (model.head_hidden, model.head_width)": f"{self.head_hidden}, {self.head_width}",
            "data.replay_size": str(data.replay_size),
            "data.memory_size": str(data.memory_size),
        }


class Members(NamedTuple):
    """Which agents do what in an update; None stands for all of them."""

    relaying: tuple[int, ...] | None  # their SAC agents learn
    after: tuple[int, ...] | None  # past their first success: heads learn from the success memory
    before: tuple[int, ...] | None  # before it, with a goal image: heads learn from that


class Diverged(ArithmeticError):
    """An agent's losses or parameters are not finite any more."""


class OtherRun(ValueError):
    """A checkpoint that does not belong to the run that was to be resumed."""


LEARNER_TAGS = (
    "reward/vlm",
    "reward/vlm_min",
    "reward/vlm_max",
    *(f"alignment/{name}" for name in ("loss", "ordered", "loss_negative", "loss_lag")),
    *(f"alignment/{name}" for name in ("cos_positive", "cos_lag", "cos_negative")),
    *(
        f"sac/{name}/{agent}"
        for name in ("critic_loss", "actor_loss", "alpha_loss", "alpha", "q", "q_max", "log_prob")
        for agent in ("vlm_agent", "sac_agent")
    ),
)
"""Metrics of an update; each is explained in docs/metrics.md."""


def _some(agents: Sequence[int], num: int) -> tuple[int, ...] | None:
    """None where they are all."""
    return None if len(agents) == num else tuple(agents)
