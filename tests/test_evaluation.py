"""What decides a headline figure: success at the last step, the placements, and that every evaluation sees the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.data.schedule import EvaluationSettings
from furl_lightning.envs.episodes import goal_image
from furl_lightning.envs.metaworld import Expert, MetaWorld
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import EPISODE_STEPS, Agent
from furl_lightning.training.evaluation import Evaluator, table

Act = Callable[[int, np.ndarray], np.ndarray]


class Scripted(TensorDictModuleBase):
    """Acts for one agent by a function of step and observation; keeps each episode's first observation."""

    in_keys = ["observation"]
    out_keys = ["action"]

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act
        self.first: list[np.ndarray] = []

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        step, observation = int(tensordict["episode_step"][0]), tensordict["observation"][0].numpy()
        if step == 0:
            self.first.append(observation.copy())
        tensordict["action"] = torch.from_numpy(self.act(step, observation))[None]
        return tensordict


def expert_until(task: str, last: int) -> Scripted:
    """The scripted expert, which moves away after some steps."""
    expert, away = Expert(task), np.array([1, 1, 1, 0], np.float32)
    return Scripted(lambda step, observation: expert.action(observation) if step < last else away)


def evaluate(policy: Scripted, agent: Agent, goal: str, episodes: int = 1, times: int = 1) -> dict[str, list[float]]:
    """The last of several evaluations by one evaluator, every episode's results."""
    evaluator = Evaluator([agent], SimulatorSettings(goal))  # type: ignore[arg-type]
    results = None
    for _ in range(times):
        results = evaluator.episodes(policy, episodes)
    evaluator.close()
    assert results is not None
    return {name: values[0].tolist() for name, values in results.items()}


def test_success_is_that_of_the_last_step() -> None:
    """The gripper reaches the goal and leaves it again, or stays there; the return counts the steps in success."""
    left = evaluate(expert_until("reach", 250), Agent("reach", 0), "random")
    assert left["success"] == [0.0] and left["success_any"] == [1.0]
    stayed = evaluate(expert_until("reach", EPISODE_STEPS), Agent("reach", 0), "random")
    assert stayed["success"] == [1.0] and stayed["success_any"] == [1.0]
    assert -EPISODE_STEPS < left["return"][0] < stayed["return"][0] < 0
    never = evaluate(expert_until("reach", 0), Agent("reach", 0), "random")
    assert never == {"success": [0.0], "success_any": [0.0], "return": [-float(EPISODE_STEPS)]}


@pytest.mark.parametrize(("goal", "seed"), [("random", 103), ("fixed", 3)])
def test_placements_are_drawn_from_the_protocols_seed(goal: str, seed: int) -> None:
    """Seed + 100 with random goals, training's own placement with fixed ones."""
    policy = expert_until("reach", 0)
    evaluate(policy, Agent("reach", 3), goal, episodes=2)
    simulator = MetaWorld("reach", seed, SimulatorSettings(goal))  # type: ignore[arg-type]
    placements = [simulator.reset() for _ in range(2)]
    simulator.close()
    assert np.array_equal(policy.first, placements)
    first, second = placements
    assert np.array_equal(first, second) == (goal == "fixed")


def test_every_evaluation_begins_from_the_same_random_state() -> None:
    policy = expert_until("reach", 0)
    evaluate(policy, Agent("reach", 0), "random", episodes=2, times=2)
    first, second, again, again_second = policy.first
    assert np.array_equal(first, again) and np.array_equal(second, again_second)
    assert not np.array_equal(first, second)


def test_an_evaluation_that_is_told_to_stop_has_no_result() -> None:
    evaluator = Evaluator([Agent("reach", 0)], SimulatorSettings())
    calls = iter([False, True])
    assert evaluator.episodes(expert_until("reach", 0), 2, lambda: next(calls)) is None
    evaluator.close()


def test_means_over_episodes_and_agents() -> None:
    evaluator = Evaluator([Agent("reach", 0)], SimulatorSettings("random"))
    first = iter([EPISODE_STEPS, 0])
    until = 0

    def act(step: int, observation: np.ndarray) -> np.ndarray:
        nonlocal until
        until = next(first) if step == 0 else until
        return Expert("reach").action(observation) if step < until else np.array([1, 1, 1, 0], np.float32)

    results = evaluator.evaluate(Scripted(act), 2)
    evaluator.close()
    assert results is not None and results["success"].tolist() == [0.5]
    agents = [Agent("reach", 0), Agent("push", 1)]
    values = {"success": torch.tensor([1.0, 0.0]), "success_any": torch.tensor([1.0, 1.0])}
    lines = table(agents, {**values, "return": torch.tensor([-10.0, -500.0])}, 1_000).splitlines()
    assert lines[-3].split() == ["reach/0", "100.0%", "100.0%", "-10.0"]
    assert lines[-2].split() == ["push/1", "0.0%", "100.0%", "-500.0"]
    assert lines[-1].split() == ["mean", "50.0%", "100.0%", "-255.0"]


def test_the_goal_image_is_the_experts_first_success() -> None:
    """On the placement of the agent's first episode; a frame before it is another picture."""
    agent, settings = Agent("drawer-close", 4), SimulatorSettings("fixed", "fast")
    image = goal_image(agent.task, agent.seed, settings)
    simulator, expert = MetaWorld(agent.task, agent.seed, settings, show_goal=True), Expert(agent.task)
    observation = simulator.reset()
    frames: list[np.ndarray] = []
    successes: list[bool] = []
    while not any(successes):
        step = simulator.step(expert.action(observation))
        observation = step.observation
        successes.append(step.success)
        frames.append(simulator.frame())
    simulator.close()
    assert image is not None and np.array_equal(image, frames[-1]) and not np.array_equal(image, frames[-2])


def test_the_goal_is_hidden_where_it_is_fixed_but_for_the_expert() -> None:
    for goal, show, hidden in (("fixed", False, True), ("fixed", True, False), ("random", False, False)):
        simulator = MetaWorld("reach", 0, SimulatorSettings(goal), show)  # type: ignore[arg-type]
        observation = simulator.reset()
        assert bool((observation[-3:] == 0).all()) == hidden
        if not hidden:
            assert np.allclose(observation[-3:], simulator.env._target_pos)
        simulator.close()


def test_the_papers_number_of_episodes() -> None:
    """One with fixed goals, as all are alike, ten with random ones, unless a number is given."""
    assert [FuRLDataModule(env=EnvSettings(goal=goal)).evaluation_episodes for goal in ("fixed", "random")] == [1, 10]
    assert FuRLDataModule(evaluation=EvaluationSettings(episodes=3)).evaluation_episodes == 3
