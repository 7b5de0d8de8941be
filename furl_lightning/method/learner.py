"""FuRL's learner for a population of A agents (Fu et al. 2024, arXiv 2406.00645, algorithm 1), and its baselines.

One update, from top to bottom of :meth:`Learner.learn`:

1. :meth:`Learner.align` trains the projection heads and scores the batch's frames with them;
2. the VLM agents learn from the task's reward + rho * score;
3. the plain SAC agents that are still in the relay learn from the task's reward alone.

Shapes: A agents, K of them, B batch entries, D the VLM's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from furl_lightning.agents.encoder import ConvEncoder
from furl_lightning.agents.members import gather_rows, index_of, replace_rows, scatter_rows
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.sac import SAC, SACSettings, n_step_return
from furl_lightning.agents.transitions import Transitions
from furl_lightning.method.alignment import AlignedReward, AlignmentSettings
from furl_lightning.method.goal_distance import GoalDistanceReward
from furl_lightning.method.relay import Relay, RelaySettings
from furl_lightning.method.zero_shot import ZeroShotReward
from furl_lightning.randomness import normal
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.settings import AtLeast, Between, Settings

Metrics = dict[str, Tensor]
"""By tag, each [A], NaN for an agent that has none; docs/metrics.md explains each."""


@dataclass(frozen=True)
class RewardSettings(Settings, option="model.reward"):
    """What is added to the task's reward for the VLM agent."""

    source: Literal["aligned", "cosine", "goal_baseline", "goal_distance", "task"] = "aligned"
    """aligned: the cosine of FuRL's trained heads; cosine: that of the VLM's own embeddings (zero-shot);
    goal_baseline: the same with VLM-RM's regularisation towards a baseline; goal_distance: minus the L2 distance of the
    VLM's embeddings to the goal image's; task: nothing, without a VLM."""
    rho: Annotated[float, AtLeast(0)] = 0.05
    """Weight of the VLM reward beside the task's."""
    baseline_prompt: str | None = None
    """For goal_baseline: a sentence on what is there at any time, e.g. "a robot arm at a table"."""
    baseline_strength: Annotated[float, Between(0, 1)] = 0.5
    """For goal_baseline: strength of the regularisation; 0 is the cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "goal_baseline" and not (self.baseline_prompt or "").strip():
            raise BadInput(
                "model.reward.source goal_baseline needs model.reward.baseline_prompt, a sentence on what is there at "
                "any time, e.g. 'a robot arm at a table'"
            )
        if self.source != "goal_baseline" and self.baseline_prompt is not None:
            raise BadInput(
                f"model.reward.baseline_prompt is for model.reward.source goal_baseline, not {self.source}; "
                "give one of both"
            )


@dataclass
class Batch:
    """What one update learns from."""

    transitions: Transitions
    """Of all A agents."""
    success_phase: Sequence[int] = field(default=())
    """The K agents past their first success, whose heads learn from ``triples``."""
    triples: Tensor | None = None
    """Theirs: embeddings of positives, lags and negatives, float32 [K, 3, B, D]."""
    goal_phase: Sequence[int] = field(default=())
    """The agents before it that have a goal image, whose heads learn from the transitions' distances to it."""


class Members(NamedTuple):
    """Which agents do what in an update; None stands for all of them."""

    relaying: tuple[int, ...] | None  # their plain SAC agents learn
    success_phase: tuple[int, ...] | None
    goal_phase: tuple[int, ...] | None


class Optimizers(NamedTuple):
    """One Adam for each part that learns; None for one that is absent."""

    vlm_agent: PopulationAdam | None
    sac_agent: PopulationAdam | None
    heads: PopulationAdam | None


class Learner(nn.Module):
    """Both SAC populations, the VLM reward and the relay, each of which a method may lack.

    Args:
        generators: one an agent, which its initial weights are drawn from.
        obs_dim, action_dim: sizes of observations and actions.
        text_embedding: the VLM's embedding of each agent's instruction, float32 [A, D]; None: no VLM.
        baseline_embedding: of the baseline's sentence, float32 [D], for that zero-shot reward.
        reward, sac, alignment, relay: settings of the parts.
        pixel_size: policies see stacks of frames of this size; None: states.

    Raises:
        BadInput: settings that contradict each other; all are named.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        action_dim: int,
        text_embedding: Tensor | None,
        baseline_embedding: Tensor | None = None,
        *,
        reward: RewardSettings = RewardSettings(),
        sac: SACSettings = SACSettings(),
        alignment: AlignmentSettings = AlignmentSettings(),
        relay: RelaySettings = RelaySettings(),
        pixel_size: int | None = None,
    ) -> None:
        super().__init__()
        refuse_contradictions(text_embedding is not None, reward, relay)
        self.num_agents, self.action_dim, self.rho = len(generators), action_dim, reward.rho

        def make_sac() -> SAC:
            encoder = ConvEncoder(self.num_agents, pixel_size) if pixel_size is not None else None
            return SAC(self.num_agents, encoder.width if encoder is not None else obs_dim, action_dim, sac, encoder)

        self.vlm_agent = make_sac() if text_embedding is not None else None
        self.sac_agent = make_sac() if text_embedding is None or relay.enabled else None
        self.relay = Relay(self.num_agents, relay) if relay.enabled else None
        self.reward: AlignedReward | GoalDistanceReward | ZeroShotReward | None = None
        if text_embedding is not None:
            if reward.source == "aligned":
                self.reward = AlignedReward(text_embedding, alignment)
            elif reward.source == "goal_distance":
                self.reward = GoalDistanceReward(*text_embedding.shape)
            else:
                self.reward = ZeroShotReward(text_embedding, baseline_embedding, reward.baseline_strength)
        for part in (self.vlm_agent, self.sac_agent, self.heads):
            if part is not None:
                part.reset_parameters(generators)

    @property
    def heads(self) -> AlignedReward | None:
        """The reward, where it has something to train."""
        return self.reward if isinstance(self.reward, AlignedReward) else None

    @property
    def evaluated_agent(self) -> SAC:
        """The agents that the method is judged by: the VLM agents, or the SAC agents where there is no VLM."""
        agent = self.vlm_agent or self.sac_agent
        assert agent is not None
        return agent

    @property
    def device(self) -> torch.device:
        """Where it learns."""
        return self.evaluated_agent.log_alpha.device

    def optimizers(self) -> Optimizers:
        """Fresh optimizers of all parts, on the device where these are."""
        parts = (self.vlm_agent, self.sac_agent, self.heads)
        return Optimizers(*(part.optimizer() if part is not None else None for part in parts))

    # -- an update

    def update(
        self,
        batch: Batch,
        optimizers: Optimizers,
        generators: Sequence[torch.Generator] = (),
        noise: Tensor | None = None,
    ) -> Metrics:
        """One update of everything; see :meth:`prepare` and :meth:`learn`."""
        return self.learn(*self.prepare(batch, generators, noise), optimizers)

    def prepare(
        self, batch: Batch, generators: Sequence[torch.Generator] = (), noise: Tensor | None = None
    ) -> tuple[Members, dict[str, Tensor]]:
        """What :meth:`learn` takes: who learns what, and all tensors on the learner's device.

        Args:
            batch: what to learn from.
            generators: one an agent; the noise is drawn from them where none is given.
            noise: standard normal [A, 4, B, action]: for the VLM agent's action and next action,
                then the SAC agent's; [A, 2, B, action] where only one of them learns.
        """
        if noise is None:
            populations = sum(agent is not None for agent in (self.vlm_agent, self.sac_agent))
            noise = normal(generators, 2 * populations, batch.transitions.reward.shape[1], self.action_dim)
        inputs = {**batch.transitions.tensors(), "noise": noise}
        if batch.triples is not None:
            inputs["triples"] = batch.triples
        members = Members(
            self._unless_all(self.sac_learns.nonzero().flatten().tolist()),
            self._unless_all(batch.success_phase),
            self._unless_all(batch.goal_phase),
        )
        return members, {name: values.to(self.device) for name, values in inputs.items()}

    def learn(self, members: Members, inputs: dict[str, Tensor], optimizers: Optimizers) -> Metrics:
        """One update on the device; may be captured as a CUDA graph, so it must not wait for values.

        Args:
            members: who learns what.
            inputs: the transitions by name, ``noise``, and ``triples`` where there are any.
            optimizers: from :meth:`optimizers`.

        Returns:
            Means over the batch, from before the update.
        """
        torch.clear_autocast_cache()  # it would hold the parameters of the update before
        batch = Transitions(**{name: v for name, v in inputs.items() if name not in ("noise", "triples")})
        noise = inputs["noise"]
        metrics: Metrics = {}
        if self.vlm_agent is not None:
            assert optimizers.vlm_agent is not None
            later = self.later_reward(batch)  # by the heads from before they learn, as the first step's
            score, metrics = self.align(members, batch, inputs.get("triples"), optimizers.heads)
            reward = batch.reward + self.rho * score
            theirs, reward = self._returns(batch, reward, later, self.vlm_agent)
            learned = self.vlm_agent.update(theirs, reward, noise[:, 0], noise[:, 1], optimizers.vlm_agent)
            metrics.update({f"sac/{name}/vlm_agent": values for name, values in learned.items()})
            metrics["reward/vlm"] = score.mean(-1)
            metrics["reward/vlm_min"], metrics["reward/vlm_max"] = score.amin(-1), score.amax(-1)
        relaying = members.relaying
        if relaying is None or relaying:
            assert self.sac_agent is not None and optimizers.sac_agent is not None
            theirs = batch.of(relaying)
            theirs, reward = self._returns(theirs, theirs.reward, theirs.later_reward, self.sac_agent)
            action_noise, next_noise = gather_rows(noise[:, -2], relaying), gather_rows(noise[:, -1], relaying)
            learned = self.sac_agent.update(theirs, reward, action_noise, next_noise, optimizers.sac_agent, relaying)
            metrics.update({f"sac/{name}/sac_agent": self._scatter(v, relaying) for name, v in learned.items()})
        return metrics

    def align(
        self, members: Members, batch: Transitions, triples: Tensor | None, optimizer: PopulationAdam | None
    ) -> tuple[Tensor, Metrics]:
        """Train the heads, if any; returns the frames' scores [A, B] by the heads from before that, and metrics.

        A zero-shot reward has nothing to train. With heads, an agent is in the goal phase until its
        success memory can be drawn from, then in the success phase. Without a goal image there is
        nothing to train on in the goal phase.
        """
        embedding = batch.embedding
        assert embedding is not None and self.reward is not None
        if not isinstance(self.reward, AlignedReward):
            return self.reward(embedding), {}
        assert optimizer is not None
        goal_phase, success_phase = members.goal_phase, members.success_phase
        metrics: Metrics = {}
        if goal_phase is None:
            assert batch.goal_distance is not None
            score, metrics = self.reward.update_by_goal(embedding, batch.goal_distance, optimizer)
        else:
            others = [i for i in range(self.num_agents) if i not in goal_phase] if goal_phase else None
            with torch.no_grad():
                score = self.reward(gather_rows(embedding, others), index_of(others, embedding.device))
            score = self._scatter(score, others)
            if goal_phase:
                assert batch.goal_distance is not None
                frames, distance = gather_rows(embedding, goal_phase), gather_rows(batch.goal_distance, goal_phase)
                theirs, learned = self.reward.update_by_goal(frames, distance, optimizer, goal_phase)
                score = replace_rows(score, goal_phase, theirs)
                metrics = {name: self._scatter(values, goal_phase) for name, values in learned.items()}
        if success_phase is None or success_phase:
            assert triples is not None
            for name, values in self.reward.update_by_success(triples, optimizer, success_phase).items():
                values = self._scatter(values, success_phase)
                metrics[name] = values.where(~values.isnan(), metrics[name]) if name in metrics else values
        return score, {f"alignment/{name}": values for name, values in metrics.items()}

    @torch.no_grad()
    def later_reward(self, batch: Transitions) -> Tensor | None:
        """The VLM agent's reward of an n-step return's later steps [A, n - 1, B], by the heads of the moment."""
        if batch.later_reward is None:
            return None
        assert batch.later_embedding is not None and self.reward is not None
        score: Tensor = self.reward(batch.later_embedding.flatten(1, 2))
        return batch.later_reward + self.rho * score.view_as(batch.later_reward)

    @staticmethod
    def _returns(
        batch: Transitions, reward: Tensor, later_reward: Tensor | None, agent: SAC
    ) -> tuple[Transitions, Tensor]:
        """The batch and rewards [A, B] that an agent learns from: over n steps where the batch has them."""
        if later_reward is None:
            return batch, reward
        assert batch.later is not None
        reward, bootstrap = n_step_return(reward, later_reward, batch.later, agent.settings.gamma)
        return replace(batch, discount=batch.discount * bootstrap), reward

    @property
    def sac_learns(self) -> Tensor:
        """Agents whose plain SAC agent learns, bool [A]: those in the relay, or all where the SAC agent is alone."""
        if self.relay is not None:
            return self.relay.active
        return torch.full((self.num_agents,), self.sac_agent is not None)

    def _unless_all(self, agents: Sequence[int]) -> tuple[int, ...] | None:
        return None if len(agents) == self.num_agents else tuple(agents)

    def _scatter(self, values: Tensor, agents: Sequence[int] | None) -> Tensor:
        return scatter_rows(values, agents, self.num_agents)

    # -- the reward to look at

    @torch.no_grad()
    def score(self, agent: int, embedding: Tensor) -> Tensor:
        """The VLM reward of one agent's frames by the heads of the moment: [T] on the CPU for embeddings [T, D]."""
        assert self.reward is not None
        agents = torch.tensor([agent], device=self.device)
        score: Tensor = self.reward(embedding.to(self.device)[None], agents)
        return score[0].cpu()

    def tags(self) -> list[str]:
        """Those of :data:`TAGS` that this method has a value for."""
        present = {"/vlm_agent": self.vlm_agent, "/sac_agent": self.sac_agent, "alignment/": self.heads}
        present["reward/"] = self.vlm_agent
        return [tag for tag in TAGS if all(part is not None for name, part in present.items() if name in tag)]


def refuse_contradictions(vlm: bool, reward: RewardSettings, relay: RelaySettings) -> None:
    """Compare settings with whether there is a VLM.

    Raises:
        BadInput: they contradict each other; all contradictions are named.
    """
    contradictions = []
    if not vlm and relay.enabled:
        contradictions.append("model.relay.enabled true needs a VLM agent to take turns with, but model.vlm is null")
    if not vlm and reward.source != "task":
        contradictions.append(f"model.reward.source {reward.source} needs a VLM, but model.vlm is null")
    if vlm and reward.source == "task":
        contradictions.append("model.reward.source task has no use for a VLM, but model.vlm is not null")
    if contradictions:
        hint = "" if vlm else ": set model.reward.source task and model.relay.enabled false, or name a VLM"
        raise BadInput("; ".join(contradictions) + hint)


TAGS = (
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
"""Tags of an update's metrics."""
