"""Soft actor-critic for a population: the losses as pure functions, and one update of everything.

Equations are numbered as in Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications"
(arXiv 1812.05905); where FuRL's published code departs from them, the code's form is taken and said.
Shapes: A agents, B batch entries.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from furl_lightning.agents.categorical import Bins
from furl_lightning.agents.members import index_of
from furl_lightning.agents.networks import MIN_STD, Actor, PopulationLinear, TwinCritic, reset_parameters
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.transitions import Transitions
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.settings import Above, AtLeast, Between, Settings

CriticPair = Literal["minimum", "mean"]


def value_of_pair(q: Float[Tensor, "A 2 B"], pair: CriticPair) -> Float[Tensor, "A B"]:
    """What both critics together say: the smaller value (eq. 5 and 9), or their mean (BRC, arXiv 2505.23150)."""
    return q.amin(1) if pair == "minimum" else q.mean(1)


def n_step_return(
    reward: Float[Tensor, "A B"], later_reward: Float[Tensor, "A N B"], later: Float[Tensor, "A N B"], gamma: float
) -> tuple[Float[Tensor, "A B"], Float[Tensor, "A B"]]:
    """Rewards of up to n steps, r_t + gamma r_{t+1} + ... + gamma^{m-1} r_{t+m-1}, and gamma^{m-1}: each [A, B].

    Sutton & Barto 2018, "Reinforcement Learning", eq. 7.1; the second is what the bootstrap is discounted by beside
    :func:`td_target`'s gamma. As usual with SAC, entropies of the steps between are left out.

    Args:
        reward: of the first step [A, B].
        later_reward: of the n - 1 steps after it [A, n - 1, B].
        later: 1 for those that the episode has, 0 after its end [A, n - 1, B].
        gamma: discount factor.
    """
    rest = torch.zeros_like(reward)
    for step in reversed(range(later.shape[1])):
        rest = gamma * later[:, step] * (later_reward[:, step] + rest)
    return reward + rest, gamma ** later.sum(1)


def td_target(
    reward: Float[Tensor, "A B"],
    discount: Float[Tensor, "A B"],
    gamma: float,
    next_q: Float[Tensor, "A 2 B"],
    alpha: Float[Tensor, " A"],
    next_log_prob: Float[Tensor, "A B"],
    pair: CriticPair = "minimum",
) -> Float[Tensor, "A B"]:
    """Soft Bellman target (eq. 5 with eq. 3): r + gamma d (min Q'(s', a') - alpha log pi(a'|s')).

    reward, discount (1 - terminated) and next_log_prob are [A, B], next_q is [A, 2, B], alpha [A];
    the target is [A, B].
    """
    soft_value = value_of_pair(next_q, pair) - alpha[:, None] * next_log_prob
    return reward + gamma * discount * soft_value


def critic_loss(q: Float[Tensor, "A 2 B"], target: Float[Tensor, "A B"]) -> Float[Tensor, " A"]:
    """Sum of both critics' squared errors, mean over the batch: [A] from q [A, 2, B], target [A, B].

    Eq. 5 without its factor 1/2, as in the published code.
    """
    return (q - target[:, None]).square().sum(1).mean(-1)


def actor_loss(
    alpha: Float[Tensor, " A"],
    log_prob: Float[Tensor, "A B"],
    q: Float[Tensor, "A 2 B"],
    pair: CriticPair = "minimum",
) -> Float[Tensor, " A"]:
    """Eq. 9: mean of alpha log pi(a|s) - min Q(s, a): [A] from alpha [A], log_prob [A, B], q [A, 2, B]."""
    return (alpha[:, None] * log_prob - value_of_pair(q, pair)).mean(-1)


def alpha_loss(
    log_alpha: Float[Tensor, " A"], log_prob: Float[Tensor, "A B"], target_entropy: float
) -> Float[Tensor, " A"]:
    """Eq. 18: -exp(log_alpha) (log pi + target entropy), mean over the batch: [A]."""
    return -log_alpha.exp() * (log_prob + target_entropy).mean(-1)


@dataclass(frozen=True)
class SACSettings(Settings, option="model.sac"):
    """Soft actor-critic, of the VLM agents and of the plain SAC agents."""

    hidden: tuple[Annotated[int, AtLeast(1)], ...] = (256, 256)
    """Sizes of the hidden layers of actor and critics."""
    lr: Annotated[float, Above(0)] = 1e-4
    """Adam's learning rate of actor, critics and temperature."""
    gamma: Annotated[float, Between(0, 1)] = 0.99
    """Discount factor."""
    tau: Annotated[float, Between(0, 1)] = 0.01
    """Polyak coefficient: share of the new critic in the target critic after each update."""
    init_alpha: Annotated[float, Above(0)] = 1.0
    """Temperature at the beginning."""
    target_entropy: float | None = None
    """Of the policies, in nats; null: half the number of actions, negative (-2 in Meta-World)."""
    min_std: Annotated[float, AtLeast(0)] = MIN_STD
    """Least standard deviation of a policy before the tanh."""
    critic_layer_norm: bool = False
    """Normalise the critics' hidden layers."""
    critic_blocks: Annotated[int, AtLeast(0)] = 0
    """Blocks of layer-normalised residual critics (BRO); 0: critics are MLPs of ``hidden``."""
    critic_width: Annotated[int, AtLeast(1)] = 512
    """Width of residual critics."""
    critic_weight_decay: Annotated[float, AtLeast(0)] = 0.0
    """Decoupled decay (AdamW) of the weights of the critics' linear layers, not of biases and norms."""
    critic_bins: Annotated[int, AtLeast(0)] = 0
    """Bins of categorical critics, trained by cross entropy (HL-Gauss), e.g. 101; 0: critics are regressions."""
    critic_range: tuple[float, float] = (-100.0, 100.0)
    """The values that categorical critics tell apart; those beyond are taken for its ends. Sparse rewards lie between
    -1 / (1 - gamma) and 0, a dense reward's values reach 10 / (1 - gamma), for each step of an action."""
    critic_pair: CriticPair = "minimum"
    """What targets and policies take of both critics: the smaller value, or the mean."""
    exploration_noise: Annotated[float, AtLeast(0)] = 0.2
    """Standard deviation of the Gaussian noise added to the plain SAC agent's actions while collecting."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            raise BadInput("model.sac.hidden must name at least one layer, e.g. [256, 256]")
        if self.critic_bins == 1:
            raise BadInput("model.sac.critic_bins must be 0, for a regression, or at least 2, not 1")
        low, high = self.critic_range
        if not -math.inf < low < high < math.inf:
            raise BadInput(
                f"model.sac.critic_range must be two numbers, the first below the second, not [{low}, {high}]"
            )


class SAC(nn.Module):
    """The SAC agents of a population: actor, twin critic with target copy, temperature.

    Args:
        num_agents: A.
        obs_dim: size of an observation, or of the encoder's features.
        action_dim: size of an action.
        settings: of networks and learning.
        encoder: turns observations into the features [A, B, obs_dim] that actor and critic see, for
            all agents or the given ones; trained by the critic's loss alone, with a target copy like
            the critic's (DrQ, arXiv 2004.13649). None: observations are the features.
    """

    def __init__(
        self,
        num_agents: int,
        obs_dim: int,
        action_dim: int,
        settings: SACSettings = SACSettings(),
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.target_entropy = -action_dim / 2 if settings.target_entropy is None else settings.target_entropy
        self.actor = Actor(num_agents, obs_dim, action_dim, settings.hidden, settings.min_std)
        blocks, bins = settings.critic_blocks, None
        if settings.critic_bins:
            bins = Bins(settings.critic_bins, *settings.critic_range)
        hidden = (settings.critic_width,) if blocks else settings.hidden
        self.critic = TwinCritic(num_agents, obs_dim, action_dim, hidden, settings.critic_layer_norm, blocks, bins)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((num_agents,), math.log(settings.init_alpha)))
        self.encoder = encoder
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False) if encoder is not None else None

    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh networks, each agent's from its own generator; the target equals the critic."""
        reset_parameters(self.actor, generators)
        reset_parameters(self.critic, generators)
        self.target_critic.load_state_dict(self.critic.state_dict())
        if self.encoder is not None and self.target_encoder is not None:
            reset_parameters(self.encoder, generators)
            self.target_encoder.load_state_dict(self.encoder.state_dict())

    def optimizer(self) -> PopulationAdam:
        """Adam over all that is trained (Adam is elementwise: one does for all)."""
        weights = [module.weight for module in self.critic.modules() if isinstance(module, PopulationLinear)]
        decay = self.settings.critic_weight_decay
        return PopulationAdam(self._trained(), self.settings.lr, decayed=weights, weight_decay=decay)

    def _trained(self) -> list[nn.Parameter]:
        encoder = self.encoder.parameters() if self.encoder is not None else ()
        return [*self.actor.parameters(), *self.critic.parameters(), self.log_alpha, *encoder]

    def deterministic(self, observation: Tensor) -> Tensor:
        """The mode's actions [A, B, action] for observations [A, B, ...]."""
        return self.actor.deterministic(_encode(self.encoder, observation))

    def update(
        self,
        batch: Transitions,
        reward: Tensor,
        noise: Tensor,
        next_noise: Tensor,
        optimizer: PopulationAdam,
        agents: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """One step of critic, actor and temperature, all from the same old parameters, then the target's.

        Args:
            batch: the transitions; their own reward is not looked at.
            reward: [A, B].
            noise, next_noise: standard normal [A, B, action], of the actor's action and the target's.
            optimizer: from :meth:`optimizer`.
            agents: the agents to update, all by default. The batch and the noise are theirs: K
                rows in this order for K agents.

        Returns:
            Means over the batch before the update, each [K]: critic_loss, actor_loss, alpha_loss,
            alpha, q (mean of the smaller one of both, or of what ``critic_pair`` makes of them), q_max, log_prob.
        """
        index, pair = index_of(agents, reward.device), self.settings.critic_pair
        observation, next_observation = batch.observation, batch.next_observation
        log_alpha = self.log_alpha if index is None else self.log_alpha.index_select(0, index)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_features = _encode(self.encoder, next_observation, index)
            next_action, next_log_prob = self.actor.sample(next_features, next_noise, index)
            next_q = self.target_critic(_encode(self.target_encoder, next_observation, index), next_action, index)
            target = td_target(reward, batch.discount, self.settings.gamma, next_q, alpha, next_log_prob, pair)

        features = _encode(self.encoder, observation, index)
        outputs = self.critic.outputs(features, batch.action, index)
        q, bins = self.critic.value(outputs), self.critic.bins
        loss_q = critic_loss(q, target) if bins is None else bins.loss(outputs, target)
        constant_features = features.detach()  # the encoder is the critic's to train
        action, log_prob = self.actor.sample(constant_features, noise, index)
        constant_critic = {name: p.detach() for name, p in self.critic.named_parameters()}
        action_q = functional_call(self.critic, constant_critic, (constant_features, action, index))
        loss_pi = actor_loss(alpha, log_prob, action_q, pair)
        loss_alpha = alpha_loss(log_alpha, log_prob.detach(), self.target_entropy)

        # Each parameter is in one of the losses alone, so one pass backwards serves all three (and
        # torch.compile, which frees its graph after one); summed over agents, an agent's gradient is its own.
        parameters = self._trained()
        total = (loss_q + loss_pi + loss_alpha).sum()
        for parameter, grad in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            parameter.grad = grad
        optimizer.step(agents=agents)
        self.update_target(agents)
        q = value_of_pair(q.detach(), pair)
        return {
            "critic_loss": loss_q.detach(),
            "actor_loss": loss_pi.detach(),
            "alpha_loss": loss_alpha.detach(),
            "alpha": alpha,
            "q": q.mean(-1),
            "q_max": q.amax(-1),
            "log_prob": log_prob.detach().mean(-1),
        }

    @torch.no_grad()
    def update_target(self, agents: Sequence[int] | None = None) -> None:
        """Target <- tau * critic + (1 - tau) * target, for all agents or the given ones; the encoder's too."""
        targets: list[Tensor] = list(self.target_critic.parameters())
        critics: list[Tensor] = list(self.critic.parameters())
        if self.encoder is not None and self.target_encoder is not None:
            targets += self.target_encoder.parameters()
            critics += self.encoder.parameters()
        if agents is not None:
            targets = [t[i] for t in targets for i in agents]
            critics = [c[i] for c in critics for i in agents]
        torch._foreach_lerp_(targets, critics, self.settings.tau)


def _encode(encoder: nn.Module | None, observation: Tensor, agents: Tensor | None = None) -> Tensor:
    return observation if encoder is None else encoder(observation, agents)
