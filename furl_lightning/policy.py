"""The policy that acts while data is collected: random at first, then the relay of both agents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from furl_lightning.randomness import Randomness, normal, uniform_actions
from furl_lightning.relay import Relay
from furl_lightning.sac import SAC


class RelayPolicy(TensorDictModuleBase):
    """Acts for A agents: reads ``observation`` [A, obs] and ``episode_step`` [A, 1], writes ``action``.

    Args:
        vlm_agent, sac_agent: the two SAC populations; held, not owned, so always up to date.
        relay: says whose turn it is; told here when an episode begins.
        randomness: its ``exploration`` stream is drawn from.
        start_steps: environment steps of uniform random actions at the beginning.
        sac_noise: deviation of the Gaussian noise added to the SAC agent's sampled action, which is
            then clipped to [-1, 1].
    """

    in_keys = ["observation", "episode_step"]
    out_keys = ["action"]

    def __init__(
        self,
        vlm_agent: SAC,
        sac_agent: SAC,
        relay: Relay,
        randomness: Randomness,
        start_steps: int,
        sac_noise: float = 0.2,
    ) -> None:
        super().__init__()
        self._agents = (vlm_agent, sac_agent)  # in a tuple: their weights are the module's to save
        self.relay, self.randomness = relay, randomness
        self.start_steps, self.sac_noise = start_steps, sac_noise
        self.env_steps = 0
        """Actions chosen so far, per agent."""

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Choose the next actions."""
        generators = self.randomness.exploration
        step = int(tensordict["episode_step"][0])
        if step == 0:
            self.relay.begin_episode(generators)
        vlm_agent, sac_agent = self._agents
        action_dim = vlm_agent.actor.mean.weight.shape[-1]
        if self.env_steps < self.start_steps:
            action = uniform_actions(generators, action_dim)
        else:
            observation = tensordict["observation"][:, None].to(vlm_agent.log_alpha.device)  # [A, 1, obs]
            noise = normal(generators, 3, 1, action_dim)  # drawn whoever acts: the stream stays in step
            action, _ = vlm_agent.actor.sample(observation, noise[:, 0].to(observation.device))
            sac_acts = self.relay.sac_acts(step)
            if sac_acts.any():
                sampled, _ = sac_agent.actor.sample(observation, noise[:, 1].to(observation.device))
                sampled = (sampled + self.sac_noise * noise[:, 2].to(observation.device)).clamp(-1.0, 1.0)
                action = torch.where(sac_acts[:, None, None].to(observation.device), sampled, action)
            action = action[:, 0].cpu()
        self.env_steps += 1
        tensordict["action"] = action
        return tensordict


class DeterministicPolicy(TensorDictModuleBase):
    """The VLM agents' deterministic actions tanh(mean), for evaluation."""

    in_keys = ["observation"]
    out_keys = ["action"]

    def __init__(self, agent: SAC) -> None:
        super().__init__()
        self._agent = (agent,)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action`` [A, action] for ``observation`` [A, obs]."""
        (agent,) = self._agent
        observation = tensordict["observation"][:, None].to(agent.log_alpha.device)
        tensordict["action"] = agent.actor.deterministic(observation)[:, 0].cpu()
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
