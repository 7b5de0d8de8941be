"""The policies that act while data is collected: random at first, then one agent or the relay of two.

They act through copies of the agents' actors, taken by :meth:`ExplorationPolicy.refresh`, so that the
agents may learn while they act.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from furl_lightning.agents.encoder import FrameStack
from furl_lightning.agents.sac import SAC
from furl_lightning.method.learner import Learner
from furl_lightning.method.relay import Relay
from furl_lightning.randomness import Randomness, coloured_normal, normal, uniform_actions
from furl_lightning.tasks import EPISODE_STEPS


def exploration_policy(
    learner: Learner, randomness: Randomness, random_actions: int, stack: FrameStack | None = None
) -> ExplorationPolicy:
    """The policy that collects for a learner: the relay of its two agents, or the one that it has."""
    vlm_agent, sac_agent, relay = learner.vlm_agent, learner.sac_agent, learner.relay
    if relay is not None and vlm_agent is not None and sac_agent is not None:
        return RelayPolicy(vlm_agent, sac_agent, relay, randomness, random_actions, stack)
    noise = sac_agent.settings.exploration_noise if sac_agent is not None else 0.0
    return SoloPolicy(learner.evaluated_agent, randomness, random_actions, noise, stack)


class ExplorationPolicy(TensorDictModuleBase, ABC):
    """Acts for A agents: reads ``observation`` [A, obs] and ``episode_step`` [A, 1], writes ``action``.

    Args:
        agents: the SAC populations that it acts for; held, not owned.
        randomness: its ``exploration`` stream is drawn from.
        random_actions: uniform ones at the beginning, per agent.
        stack: see frames, read from ``frame``, in place of ``observation``.
    """

    in_keys = ["observation", "episode_step"]
    out_keys = ["action"]

    def __init__(
        self, agents: Sequence[SAC], randomness: Randomness, random_actions: int, stack: FrameStack | None = None
    ) -> None:
        super().__init__()
        self._learning = tuple(agents)  # in tuples: their weights are the module's to save
        self._acting = tuple(ActorCopy(agent) for agent in agents)
        self.randomness, self.random_actions, self.stack = randomness, random_actions, stack
        self.action_dim = agents[0].actor.mean.bias.shape[-1]
        self.chosen = 0
        """Actions chosen so far, per agent."""
        self.noise_beta, self.episode_steps = 0.0, EPISODE_STEPS
        """Colour of the noise, and the steps for which it is drawn at once; see :func:`coloured_normal`."""
        self.noise: Tensor | None = None
        """Coloured noise of this episode, [A, count, steps, action]."""

    def refresh(self) -> None:
        """Act as the agents have learned to by now."""
        for acting, learning in zip(self._acting, self._learning, strict=True):
            acting.take(learning)

    def acting_state(self) -> list[dict[str, Tensor]]:
        """The parameters that it acts with, to be put back by :meth:`load_acting_state`."""
        return [acting.state_dict() for acting in self._acting]

    def load_acting_state(self, state: Sequence[dict[str, Tensor]]) -> None:
        """Act with these parameters until the next :meth:`refresh`."""
        for acting, parameters in zip(self._acting, state, strict=True):
            acting.load_state_dict(parameters)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Choose the next actions."""
        step = int(tensordict["episode_step"][0])
        if step == 0:
            self.begin_episode()
        observation = _observe(tensordict, self.stack)
        if self.chosen < self.random_actions:
            action = uniform_actions(self.randomness.exploration, self.action_dim)
        else:
            action = self.choose(observation, step)[:, 0].cpu()
        self.chosen += 1
        tensordict["action"] = action
        return tensordict

    def draw_noise(self, count: int, step: int) -> Tensor:
        """Standard normal numbers [A, count, 1, action] of a step, of the same ``count`` throughout an episode."""
        if not self.noise_beta:
            return normal(self.randomness.exploration, count, 1, self.action_dim)
        if step == 0 or self.noise is None:
            shape = (count, self.episode_steps, self.action_dim)
            self.noise = coloured_normal(self.randomness.exploration, self.noise_beta, *shape)
        return self.noise[:, :, step : step + 1]

    def begin_episode(self) -> None:
        """Told before an episode's first action."""

    @abstractmethod
    def choose(self, observation: Tensor, step: int) -> Tensor:
        """Actions [A, 1, action] for observations [A, 1, ...] at a step of the episode."""


class RelayPolicy(ExplorationPolicy):
    """The VLM agent and the SAC agent in turns.

    Args:
        vlm_agent, sac_agent: the two SAC populations.
        relay: says whose turn it is; told here when an episode begins.
        randomness, random_actions, stack: see :class:`ExplorationPolicy`.

    Gaussian noise of the SAC agent's ``exploration_noise`` is added to its sampled action, which is then clipped to
    [-1, 1].
    """

    def __init__(
        self,
        vlm_agent: SAC,
        sac_agent: SAC,
        relay: Relay,
        randomness: Randomness,
        random_actions: int,
        stack: FrameStack | None = None,
    ) -> None:
        super().__init__([vlm_agent, sac_agent], randomness, random_actions, stack)
        self.relay, self.sac_noise = relay, sac_agent.settings.exploration_noise

    def begin_episode(self) -> None:
        """Draw the length of the episode's turns."""
        self.relay.begin_episode(self.randomness.exploration)

    def choose(self, observation: Tensor, step: int) -> Tensor:
        """Each agent's action of whoever's turn it is."""
        vlm_agent, sac_agent = self._acting
        noise = self.draw_noise(3, step)  # drawn whoever acts: the stream stays in step
        action = vlm_agent.explore(observation, noise[:, 0])
        sac_acts = self.relay.sac_acts(step)
        if sac_acts.any():
            noisy = sac_agent.explore(observation, noise[:, 1], self.sac_noise * noise[:, 2])
            action = torch.where(sac_acts[:, None, None].to(action.device), noisy, action)
        return action


class SoloPolicy(ExplorationPolicy):
    """One SAC population acts alone.

    Args:
        agent: the population.
        randomness, random_actions, stack: see :class:`ExplorationPolicy`.
        extra_noise: deviation of Gaussian noise added to the sampled action, which is then clipped
            to [-1, 1]; 0 samples from the policy alone.
    """

    def __init__(
        self,
        agent: SAC,
        randomness: Randomness,
        random_actions: int,
        extra_noise: float = 0.0,
        stack: FrameStack | None = None,
    ) -> None:
        super().__init__([agent], randomness, random_actions, stack)
        self.extra_noise = extra_noise

    def choose(self, observation: Tensor, step: int) -> Tensor:
        """The agent's action."""
        (agent,) = self._acting
        if not self.extra_noise:
            return agent.explore(observation, self.draw_noise(1, step)[:, 0])
        noise = self.draw_noise(2, step)
        return agent.explore(observation, noise[:, 0], self.extra_noise * noise[:, 1])


class ActorCopy(nn.Module):
    """What a SAC population acts with, its actors and what they see through, as it was when it was taken."""

    def __init__(self, agent: SAC) -> None:
        super().__init__()
        self.actor, self.encoder = copy.deepcopy(agent.actor), copy.deepcopy(agent.encoder)
        self.requires_grad_(False)

    @torch.no_grad()
    def take(self, agent: SAC) -> None:
        """Copy the population's parameters of the moment."""
        learned = [*agent.actor.parameters(), *(agent.encoder.parameters() if agent.encoder is not None else ())]
        torch._foreach_copy_(list(self.parameters()), learned)

    def explore(self, observation: Tensor, noise: Tensor, extra: Tensor | None = None) -> Tensor:
        """Sampled actions [A, 1, action] for standard normal noise of that shape; ``extra`` is added, then clipped."""
        device = next(self.parameters()).device
        features = observation.to(device)
        if self.encoder is not None:
            features = self.encoder(features)
        action = self.actor.sample(features, noise.to(device))[0]
        return action if extra is None else (action + extra.to(device)).clamp(-1.0, 1.0)


class DeterministicPolicy(TensorDictModuleBase):
    """A population's deterministic actions tanh(mean), for evaluation."""

    in_keys = ["observation"]
    out_keys = ["action"]

    def __init__(self, agent: SAC, stack: FrameStack | None = None) -> None:
        super().__init__()
        self._agent, self.stack = (agent,), stack

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` [A, action] for ``observation`` [A, obs], or for the frames seen so far."""
        (agent,) = self._agent
        observation = _observe(tensordict, self.stack).to(agent.log_alpha.device)
        tensordict["action"] = agent.deterministic(observation)[:, 0].cpu()
        return tensordict


class SomeAgents(TensorDictModuleBase):
    """A population's policy for K of its A agents: reads and writes their rows [K, ...].

    Args:
        policy: of all A agents.
        rows: the K agents' places in the population.
        num_agents: A.
    """

    in_keys = ["observation"]
    out_keys = ["action"]

    def __init__(self, policy: TensorDictModuleBase, rows: Sequence[int], num_agents: int) -> None:
        super().__init__()
        self._policy = (policy,)
        self._rows = torch.tensor(rows)
        self._source = torch.zeros(num_agents, dtype=torch.int64)  # the other agents see the first row
        self._source[self._rows] = torch.arange(len(rows))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` [K, action] for ``observation`` [K, obs]."""
        everyone = self._policy[0](tensordict[self._source])
        tensordict["action"] = everyone["action"][self._rows]
        return tensordict


def _observe(tensordict: TensorDictBase, stack: FrameStack | None) -> Tensor:
    """What an agent's networks take, [A, 1, ...]."""
    if stack is None:
        return tensordict["observation"][:, None]
    return stack.push(tensordict["frame"], first=int(tensordict["episode_step"][0]) == 0)[:, None]
