"""Options that the published learner lacks, off by default: hand-made numbers, and runs with all of them that resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from furl_lightning.agents.sac import n_step_return, td_target
from furl_lightning.data.experience import Experience
from furl_lightning.envs.metaworld import MetaWorldEnv
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.envs.simulator import Simulator, SimulatorSettings
from furl_lightning.method.success_memory import MemorySettings
from furl_lightning.replay.buffer import ReplayBuffer, ReplaySettings
from furl_lightning.replay.pixel_buffer import PixelReplayBuffer
from furl_lightning.tasks import Agent
from furl_lightning.training.evaluation import Evaluator

from .conftest import Run, assert_same
from .test_evaluation import Scripted
from .test_pixels import EPISODE, fill
from .test_population import Population, make_updates
from .test_replay import generators, steps

SAC_ALONE: dict[str, Any] = {
    "model__vlm": "null",
    "model__reward__source": "task",
    "model__relay__enabled": "false",
    "data__env__reward": "dense",
}

# -- action repeat


def test_an_action_is_taken_several_times() -> None:
    """As often by hand: the last observation and success, the sum of the dense rewards."""
    once = Simulator("reach", 0, SimulatorSettings(episode_steps=12))
    thrice = Simulator("reach", 0, SimulatorSettings(episode_steps=12, action_repeat=3))
    assert np.array_equal(once.reset(), thrice.reset())
    random = np.random.default_rng(0)
    for number in range(4):
        action = random.uniform(-1, 1, 4).astype(np.float32)
        steps = [once.step(action) for _ in range(3)]
        step = thrice.step(action)
        assert np.array_equal(step.observation, steps[-1].observation)
        assert step.reward == steps[0].reward + steps[1].reward + steps[2].reward
        assert step.success == steps[-1].success
        assert step.truncated == steps[-1].truncated == (number == 3)


def test_an_episode_has_as_many_steps_but_fewer_actions() -> None:
    """Steps are the simulator's for whoever acts; an evaluation's return is that of the same actions one by one."""
    told: list[int] = []

    def act(step: int, observation: np.ndarray) -> np.ndarray:
        told.append(step)
        return np.array([0.1, 0.5, -0.2, 0.0], np.float32)

    returns = []
    for repeat in (1, 5):
        settings = EnvSettings(episode_steps=20, action_repeat=repeat, reward="dense").simulators(frames=False)
        evaluator = Evaluator([Agent("reach", 0)], settings, reward="dense")
        results = evaluator.episodes(Scripted(act), 1)
        assert results is not None
        returns.append(float(results["return"]))
        evaluator.close()
    assert returns[0] == pytest.approx(returns[1], rel=1e-5)
    env = MetaWorldEnv([Agent("reach", 0)], SimulatorSettings(episode_steps=20, action_repeat=5), reward="sparse")
    state = env.rollout(9, auto_cast_to_device=False)
    assert state["next", "episode_step"].flatten().tolist() == [5, 10, 15, 20]
    assert state["next", "reward"].flatten().tolist() == [-1.0] * 4
    env.close()


def test_a_runs_steps_are_the_simulators(run: Run, tmp_path: Path) -> None:
    """Checkpoints, metrics and the random phase; transitions and updates are those of actions."""
    settings = {**SAC_ALONE, "data__env__action_repeat": 5, "data__checkpoints__every": 20}
    saved = run("repeated", **settings)
    data = saved["FuRLDataModule"]
    assert data["env_steps"] == 100 and data["journal"][-1]["end"] == 20
    adam = saved["optimizer_states"][0]["state"][0]
    assert adam["step"].tolist() == [10.0]  # 50 of 100 steps are random, and 5 make an action
    assert {line.split(",")[0] for line in saved["metrics"][1:]} == {"50", "100"}
    checkpoint = tmp_path / "repeated" / "checkpoints" / "step-000000080.ckpt"
    resumed = run("resumed", "--ckpt_path", str(checkpoint), **settings)
    assert_same(saved, resumed, ignore=("journal", "metrics"))


# -- n-step returns


def test_an_n_step_return_by_hand() -> None:
    """Three rewards, two at an episode's last step but one, one at its last: each with what it bootstraps by."""
    reward = torch.tensor([[1.0, 1.0, 1.0]])
    later_reward = torch.tensor([[[2.0, 2.0, 7.0], [4.0, 7.0, 7.0]]])
    later = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    total, bootstrap = n_step_return(reward, later_reward, later, 0.5)
    assert total.tolist() == [[1 + 0.5 * 2 + 0.25 * 4, 1 + 0.5 * 2, 1.0]]
    assert bootstrap.tolist() == [[0.25, 0.5, 1.0]]
    target = td_target(total, bootstrap, 0.5, torch.full((1, 2, 3), 8.0), torch.zeros(1), torch.zeros(1, 3))
    assert target.tolist() == [[3 + 0.125 * 8, 2 + 0.25 * 8, 1 + 0.5 * 8]]


@pytest.mark.parametrize("end", [9, 10, 23, 40])
def test_n_steps_cross_neither_an_episodes_end_nor_the_newest_step(end: int) -> None:
    """Steps are named by their numbers; episodes have five, the ring twelve."""
    replay, n = ReplayBuffer(12), 4
    for start in range(0, end, 3):
        replay.extend(steps(start, min(start + 3, end), 2))
    number = torch.arange(replay.oldest, end).expand(2, -1)
    batch = replay.over(number, n, 5)
    for agent in range(2):
        for k, first in enumerate(number[agent].tolist()):
            window = [s for s in range(first, first + n) if s // 5 == first // 5 and s < end]
            count = len(window) - 1
            assert batch["later"][agent, :, k].tolist() == [1.0] * count + [0.0] * (n - 1 - count)
            for name in ("reward", "embedding"):
                values = batch[f"later_{name}"][agent, :count, k].view(count, -1)[:, 0]
                assert values.tolist() == [10.0 * s + agent for s in window[1:]]
            for name in ("observation", "action", "reward", "embedding"):
                assert (batch[name][agent, k] == 10.0 * first + agent).all()
            for name in ("next_observation", "terminated"):
                assert (batch[name][agent, k] == 10.0 * window[-1] + agent).all()


def test_stacks_of_frames_before_the_first_and_after_the_last_of_n_steps() -> None:
    replay = PixelReplayBuffer(40, episode_steps=EPISODE)
    fill(replay, 0, 37, 2)
    number = torch.arange(3, 37).expand(2, -1)
    frames = replay.over(number, 3, EPISODE)["frames"]
    last = (number + 2).minimum(number - number % EPISODE + EPISODE - 1).clamp(max=36)
    assert torch.equal(frames[:, :, :3], replay.stacks(number)[:, :, :3])
    assert torch.equal(frames[:, :, 3:], replay.stacks(last)[:, :, 1:])


def test_a_batch_of_n_steps_is_what_the_learner_takes() -> None:
    experience = Experience(
        2,
        5,
        20,
        ("observation", "action", "next_observation", "reward", "terminated", "embedding"),
        ReplaySettings(batch_size=6, n_step=3),
        MemorySettings(),
        None,
        torch.device("cpu"),
    )
    experience.replay.extend(steps(0, 15, 2))
    batch = experience.sample(generators(2)).transitions
    assert batch.later is not None and batch.later_embedding is not None and batch.later_reward is not None
    assert batch.later.shape == batch.later_reward.shape == (2, 2, 6)
    assert batch.later_embedding.shape == (2, 2, 6, 3) and batch.later_embedding.dtype == torch.float32


def n_step_updates(count: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Updates of test_population.py with two later steps, some of them missing."""
    g, updates = torch.Generator().manual_seed(11), make_updates(count)
    for transitions, _ in updates:
        num, size, width = transitions["embedding"].shape
        there = torch.randint(0, 3, (num, 1, size), generator=g)
        transitions["later"] = (torch.arange(2)[:, None] < there).float()
        transitions["later_reward"] = torch.randint(-1, 1, (num, 2, size), generator=g).float()
        transitions["later_embedding"] = torch.randn(num, 2, size, width, generator=g)
    return updates


def test_each_of_n_steps_has_the_vlm_reward_of_the_moment() -> None:
    """An n-step update is that of one step whose reward and discount were put together by hand, with these heads."""
    phases = [([1], [0, 2]), ([0, 1, 2], [])]
    ours, theirs = Population([0, 1, 2]), Population([0, 1, 2])
    for (transitions, triples), phase in zip(n_step_updates(2), phases, strict=True):
        one = {name: values for name, values in transitions.items() if not name.startswith("later")}
        later, gamma = transitions["later"], theirs.learner.evaluated_agent.settings.gamma
        with torch.no_grad():
            assert theirs.learner.reward is not None
            score = torch.stack([theirs.learner.reward(e) for e in transitions["later_embedding"].unbind(1)], 1)
        weight = later * gamma ** torch.arange(1, 3)[:, None]
        one["discount"] = one["discount"] * gamma ** later.sum(1)
        vlm_reward = (weight * (transitions["later_reward"] + theirs.learner.rho * score)).sum(1)
        expected = theirs.learn([({**one, "reward": one["reward"] + vlm_reward}, triples)], [phase])[0]
        measured = ours.learn([(transitions, triples)], [phase])[0]
        for name, values in expected.items():
            if "sac_agent" not in name:  # its reward has no score
                torch.testing.assert_close(measured[name], values, rtol=1e-4, atol=1e-5, equal_nan=True)
        theirs.learner.load_state_dict(ours.learner.state_dict())
