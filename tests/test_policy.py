"""The policies that act while data is collected: who acts, with which noise, and from when on."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from furl_lightning.agents.sac import SACSettings
from furl_lightning.data.policy import ExplorationPolicy, RelayPolicy, SoloPolicy, exploration_policy
from furl_lightning.method.learner import Learner, RewardSettings
from furl_lightning.method.relay import RelaySettings
from furl_lightning.randomness import Randomness, normal, uniform_actions
from furl_lightning.tasks import Agent

AGENTS = [Agent("reach", 0), Agent("push", 1)]
NOISE = 0.3


def make(source: str = "aligned", relay: bool = True, start_steps: int = 0) -> tuple[Learner, ExplorationPolicy]:
    """A learner of two agents and the policy that collects for it."""
    text = None if source == "task" else torch.ones(2, 5)
    sac = SACSettings(hidden=(8,), exploration_noise=NOISE)
    reward = RewardSettings(source=source)  # type: ignore[arg-type]
    randomness = Randomness(AGENTS)
    settings = RelaySettings(enabled=relay, turns=(2,))
    learner = Learner(randomness.init, 39, 4, text, reward=reward, sac=sac, relay=settings)
    policy = exploration_policy(learner, randomness, start_steps)
    policy.refresh()
    return learner, policy


def act(policy: ExplorationPolicy, observation: Tensor, step: int) -> Tensor:
    state = TensorDict({"observation": observation, "episode_step": torch.full((2, 1), step)}, [2])
    return policy(state)["action"]


def observations(number: int) -> Tensor:
    return torch.randn(number, 2, 39, generator=torch.Generator().manual_seed(5))


def test_the_sac_agent_acts_in_its_turns_with_extra_noise_and_clipped() -> None:
    """Against the same numbers, drawn and put together here; the VLM agent's actions are its policy's alone."""
    learner, policy = make()
    assert isinstance(policy, RelayPolicy) and learner.vlm_agent is not None and learner.sac_agent is not None
    generators, clipped = Randomness(AGENTS).exploration, 0
    for episode in range(2):
        for step, observation in enumerate(observations(40)):
            if step == 0:
                [torch.randint(1, (), generator=g) for g in generators]  # the turn's length
            noise = normal(generators, 3, 1, 4)
            action = act(policy, observation, step)
            sac_acts = (step // 2 + episode) % 2 == 1
            actor = (learner.sac_agent if sac_acts else learner.vlm_agent).actor
            with torch.no_grad():
                expected = actor.sample(observation[:, None], noise[:, 1 if sac_acts else 0])[0]
            if sac_acts:
                noisy = expected + NOISE * noise[:, 2]
                clipped += int((noisy.abs() > 1).sum())
                expected = noisy.clamp(-1, 1)
            torch.testing.assert_close(action, expected[:, 0])
    assert clipped > 0, "nothing was clipped, so nothing was shown"


@pytest.mark.parametrize(("source", "extra"), [("task", NOISE), ("cosine", 0.0)])
def test_one_agent_alone(source: str, extra: float) -> None:
    """The plain SAC agent keeps its extra noise; the VLM agent has none."""
    learner, policy = make(source, relay=False)
    assert isinstance(policy, SoloPolicy)
    generators = Randomness(AGENTS).exploration
    for step, observation in enumerate(observations(10)):
        noise = normal(generators, 2 if extra else 1, 1, 4)
        with torch.no_grad():
            expected = learner.evaluated_agent.actor.sample(observation[:, None], noise[:, 0])[0]
        if extra:
            expected = (expected + extra * noise[:, 1]).clamp(-1, 1)
        torch.testing.assert_close(act(policy, observation, step), expected[:, 0])


def test_actions_are_random_for_the_first_steps_and_no_longer() -> None:
    learner, policy = make("cosine", relay=False, start_steps=3)
    generators = Randomness(AGENTS).exploration
    for step, observation in enumerate(observations(3)):
        assert torch.equal(act(policy, observation, step), uniform_actions(generators, 4))
    observation = observations(4)[-1]
    with torch.no_grad():
        expected = learner.evaluated_agent.actor.sample(observation[:, None], normal(generators, 1, 4))[0]
    torch.testing.assert_close(act(policy, observation, 3), expected[:, 0])


def test_an_agent_that_has_left_the_relay_acts_as_the_vlm_agent_alone() -> None:
    learner, policy = make()
    assert learner.relay is not None and learner.vlm_agent is not None
    learner.relay.retire(torch.tensor([0, learner.relay.settings.threshold]))
    generators = Randomness(AGENTS).exploration
    for step, observation in enumerate(observations(6)):
        if step == 0:
            [torch.randint(1, (), generator=g) for g in generators]
        noise = normal(generators, 3, 1, 4)
        action = act(policy, observation, step)
        with torch.no_grad():
            vlm_action = learner.vlm_agent.actor.sample(observation[:, None], noise[:, 0])[0][:, 0]
        same = [torch.allclose(action[i], vlm_action[i]) for i in range(2)]
        assert same == [step // 2 % 2 == 0, True]
