"""Options that the published learner lacks, off by default: hand-made numbers, and runs with all that resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from furl_lightning.agents.categorical import Bins
from furl_lightning.agents.networks import PopulationLayerNorm, PopulationLinear, PopulationResidual, reset_parameters
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.sac import SAC, CriticPair, SACSettings, actor_loss, n_step_return, td_target
from furl_lightning.agents.update_graph import UpdateGraph
from furl_lightning.commands.fit import fit
from furl_lightning.data.experience import Experience
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.population import PopulationEnv
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.method.learner import Learner, RewardSettings
from furl_lightning.method.success_memory import MemorySettings
from furl_lightning.randomness import Randomness, coloured_normal, normal
from furl_lightning.replay.buffer import ReplayBuffer, ReplaySettings
from furl_lightning.replay.pixel_buffer import PixelReplayBuffer
from furl_lightning.tasks import INSTRUCTIONS, Agent
from furl_lightning.training.evaluation import Evaluator
from furl_lightning.training.identity import LATER_OPTIONS, OtherRun, refuse_other_run

from .conftest import Run, assert_same
from .test_evaluation import Scripted
from .test_pixels import EPISODE, fill
from .test_population import AGENTS, PHASES, FakeVLM, Population, assert_equal, make_updates
from .test_replay import generators, steps
from .test_update_graph import recorder, state_of

SAC_ALONE: dict[str, Any] = {
    "model__vlm": "null",
    "model__reward__source": "task",
    "model__relay__enabled": "false",
    "data__env__reward": "dense",
}

# -- action repeat


def test_an_action_is_taken_several_times() -> None:
    """As often by hand: the last observation and success, the sum of the dense rewards."""
    once = MetaWorld("reach", 0, SimulatorSettings(episode_steps=12))
    thrice = MetaWorld("reach", 0, SimulatorSettings(episode_steps=12, action_repeat=3))
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
    env = PopulationEnv([Agent("reach", 0)], SimulatorSettings(episode_steps=20, action_repeat=5), reward="sparse")
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
                values = batch[f"later_{name}"][agent, :count, k].reshape(count, 3 if name == "embedding" else 1)[:, 0]
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


# -- categorical critics


def test_a_targets_distribution_by_hand() -> None:
    """Bins of width 1 over [0, 4], deviation 0.75: differences of the normal distribution, as tables have them."""
    bins = Bins(4, 0.0, 4.0)
    middle, end = bins.distribution(torch.tensor([[2.0, 9.0]]))[0]
    inner = 0.9087888 - 0.5  # Phi(1 / 0.75) - Phi(0)
    outer = 0.9961696 - 0.9087888  # Phi(2 / 0.75) - Phi(1 / 0.75)
    expected = torch.tensor([outer, inner, inner, outer]) / (2 * (outer + inner))
    torch.testing.assert_close(middle, expected, rtol=1e-5, atol=1e-6)
    # Clipped to 4: the right half is outside the range.
    below = torch.tensor([0.4999999518, 0.4999683288, 0.4961696, 0.4087888, 0.0])  # Phi(0) - Phi(-k / 0.75), k = 4 .. 0
    torch.testing.assert_close(end, (below[:-1] - below[1:]) / below[0], rtol=1e-4, atol=1e-6)
    assert bins.distribution(torch.linspace(-3, 7, 30)[None]).sum(-1).allclose(torch.ones(30))


def test_a_categorical_critics_value_is_its_mean_and_its_loss_the_cross_entropy() -> None:
    bins = Bins(4, 0.0, 4.0)
    share = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    logits = share.log().view(1, 2, 1, 4) + 3.0  # what is added to all of them says nothing
    torch.testing.assert_close(bins.value(logits).flatten(), torch.tensor([0.05 + 0.3 + 0.75 + 1.4, 2.0]))
    target = torch.tensor([[1.3]])
    p = bins.distribution(target)[0, 0]
    torch.testing.assert_close(bins.loss(logits, target), -(p * share.log()).sum().view(1))
    g = torch.Generator().manual_seed(0)
    inside = 20 + 60 * torch.rand(1, 50, generator=g)
    wide = Bins(101, 0.0, 100.0)
    best = wide.distribution(inside)[:, None].expand(-1, 2, -1, -1).clamp(min=1e-30).log()
    torch.testing.assert_close(wide.value(best)[0, 0], inside[0], rtol=1e-3, atol=1e-2)


def test_the_mean_of_both_critics() -> None:
    q, none = torch.tensor([[[1.0, 5.0], [3.0, 1.0]]]), torch.zeros(1, 2)
    pairs: dict[CriticPair, list[float]] = {"minimum": [1.0, 1.0], "mean": [2.0, 3.0]}
    for pair, both in pairs.items():
        target = td_target(none, none + 1, 0.5, q, torch.zeros(1), none, pair)
        assert target.tolist() == [[both[0] / 2, both[1] / 2]]
        assert actor_loss(torch.zeros(1), none, q, pair).tolist() == [-(both[0] + both[1]) / 2]


# -- residual critics and their decay


def test_a_residual_network_by_hand() -> None:
    """Two members and two blocks, against PyTorch's own layers with the same numbers."""
    net = PopulationResidual([2], 3, 5, 2, 1)
    reset_parameters(net, generators(2))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    x = torch.randn(2, 7, 3, generator=g)

    def linear(layer: PopulationLinear, i: int, h: Tensor) -> Tensor:
        return torch.addmm(layer.bias[i], h, layer.weight[i])

    def normed(n: int, i: int, h: Tensor) -> Tensor:
        layer, norm = net.layers[n], net.norms[n]
        assert isinstance(layer, PopulationLinear) and isinstance(norm, PopulationLayerNorm)
        return F.layer_norm(linear(layer, i, h), (5,), norm.weight[i, 0], norm.bias[i, 0])

    for i in range(2):
        h = normed(0, i, x[i]).relu()
        for first in (1, 3):
            h = h + normed(first + 1, i, normed(first, i, h).relu())
        expected = linear(net.output, i, h)
        torch.testing.assert_close(net(x)[i], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x[i : i + 1], torch.tensor([i]))[0], expected, rtol=1e-4, atol=1e-5)


def test_weights_decay_as_adamws_do() -> None:
    """Against PyTorch's, for one of two agents at a time; what does not decay is as Adam has it."""
    g = torch.Generator().manual_seed(5)
    start = torch.randn(2, 3, generator=g)
    ours = [start.clone().requires_grad_() for _ in range(2)]
    population = PopulationAdam(ours, 0.1, decayed=ours[:1], weight_decay=0.3)
    theirs = [[start[i].clone().requires_grad_() for _ in range(2)] for i in range(2)]
    adam = [(torch.optim.AdamW([p], 0.1, weight_decay=0.3), torch.optim.Adam([q], 0.1)) for p, q in theirs]
    for agents in (None, [1], [1], None, [0]):
        grad = torch.randn(2, 3, generator=g)
        for parameter in ours:
            parameter.grad = grad.clone()
        population.step(agents=agents)
        for i in range(2) if agents is None else agents:
            for parameter, optimizer in zip(theirs[i], adam[i], strict=True):
                parameter.grad = grad[i].clone()
                optimizer.step()
    for i in range(2):
        for k in range(2):
            torch.testing.assert_close(ours[k][i], theirs[i][k])


def test_what_decays_is_the_critics_linear_weights() -> None:
    agent = SAC(2, 5, 3, SACSettings(critic_blocks=1, critic_width=6, critic_weight_decay=0.1))
    decayed = {id(p) for p in agent.optimizer().decayed}
    names = {name for name, p in agent.named_parameters() if id(p) in decayed}
    assert names == {f"critic.net.{name}.weight" for name in ("layers.0", "layers.1", "layers.2", "output")}
    assert SAC(2, 5, 3).optimizer().decayed == []


# -- coloured noise


@pytest.mark.parametrize("length", [50, 51])
def test_coloured_noise_is_standard_and_its_power_falls_with_frequency(length: int) -> None:
    """Beta 0 is the white noise itself; pink has power in inverse proportion to frequency, red to its square."""
    white = normal(generators(2), 3, length, 4)
    torch.testing.assert_close(coloured_normal(generators(2), 0.0, 3, length, 4), white)
    for beta in (1.0, 2.0):
        noise = coloured_normal(generators(2), beta, 2_000, length, 4)
        assert noise.shape == (2, 2_000, length, 4)
        assert float(noise.square().mean()) == pytest.approx(1.0, rel=0.05)
        assert float(noise[:, :, 0].square().mean()) == pytest.approx(1.0, rel=0.1)
        power = torch.fft.rfft(noise, dim=-2).abs().square().mean((0, 1, 3))
        frequency = torch.arange(1, length // 2).float()
        torch.testing.assert_close(
            power[1 : length // 2] * frequency**beta, power[1].expand(length // 2 - 1), rtol=0.1, atol=0.0
        )


def test_coloured_noise_by_hand() -> None:
    """Length 2, pink: frequencies 0 (taken for 1/2) and 1/2 have the same weight, so that nothing changes; length 4
    weighs the frequencies 0, 1/4, 1/2 and -1/4 by 2, 2, sqrt(2) and 2 over the root of their mean square, 3.5."""
    torch.testing.assert_close(coloured_normal(generators(1), 1.0, 1, 2, 1), normal(generators(1), 1, 2, 1))
    a, b, c, d = normal(generators(1), 1, 4, 1).flatten().tolist()
    fastest = (a - b + c - d) / 4
    rest = [x - sign * fastest for x, sign in zip((a, b, c, d), (1, -1, 1, -1), strict=True)]
    expected = [(2 * x + sign * 2**0.5 * fastest) / 3.5**0.5 for x, sign in zip(rest, (1, -1, 1, -1), strict=True)]
    torch.testing.assert_close(coloured_normal(generators(1), 1.0, 1, 4, 1).flatten(), torch.tensor(expected))


def test_an_agents_coloured_noise_is_its_own() -> None:
    both = coloured_normal(generators(2), 1.0, 3, 20, 4)
    torch.testing.assert_close(both[1:], coloured_normal(generators(2)[1:], 1.0, 3, 20, 4), rtol=0.0, atol=0.0)


# -- all of them at once

ALL = SACSettings(
    hidden=(32, 24),
    lr=3e-4,
    critic_blocks=1,
    critic_width=16,
    critic_weight_decay=0.1,
    critic_bins=21,
    critic_range=(-20.0, 10.0),
    critic_pair="mean",
)


def everything(members: list[int]) -> Population:
    population = Population(members)
    agents = Randomness([AGENTS[i] for i in members])
    population.generators = agents.learning
    text = FakeVLM().encode_texts([INSTRUCTIONS[AGENTS[i].task] for i in members])
    population.learner = Learner(agents.init, 39, 4, text, reward=RewardSettings(rho=0.3), sac=ALL)
    population.optimizers = population.learner.optimizers()
    return population


def test_a_population_learns_with_all_of_them_as_its_members_alone() -> None:
    population, updates = everything([0, 1, 2]), n_step_updates(len(PHASES))
    metrics = population.learn(updates)
    for i in range(3):
        for ours, theirs in zip(metrics, everything([i]).learn(updates), strict=True):
            for name, values in ours.items():
                expected = theirs.get(name, torch.tensor([torch.nan]))
                assert torch.allclose(values[i], expected[0], rtol=1e-3, atol=1e-4, equal_nan=True), name


def test_an_update_with_all_of_them_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in it waits for values: recorded once a phase and replayed, it is the ordinary update."""
    phases = [phase for phase in (PHASES[0], PHASES[-1]) for _ in range(3)]
    updates = n_step_updates(len(phases))
    eager, graphed = everything([0, 1, 2]), everything([0, 1, 2])
    record = recorder(lambda: state_of(graphed), monkeypatch)
    graph = UpdateGraph(lambda members, inputs: graphed.learner.learn(members, inputs, graphed.optimizers), record)
    for prepared in graphed.prepare(updates, phases):
        graph(*prepared)
    eager.learn(updates, phases)
    assert graph._replay is not None and not graph._failed
    for member in range(3):
        assert_equal(graphed.of(member), eager.of(member))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_of_them_on_a_gpu() -> None:
    """The real capture is near the update on the CPU."""
    phases = [phase for phase in (PHASES[0], PHASES[-1]) for _ in range(3)]
    updates = n_step_updates(len(phases))
    host, device = everything([0, 1, 2]), everything([0, 1, 2])
    device.learner.cuda()
    device.optimizers = device.learner.optimizers()
    graph = UpdateGraph(lambda members, inputs: device.learner.learn(members, inputs, device.optimizers))
    measured = [{k: v.cpu() for k, v in graph(*prepared).items()} for prepared in device.prepare(updates, phases)]
    assert graph._replay is not None and not graph._failed
    for ours, theirs in zip(measured, host.learn(updates, phases), strict=True):
        for name, values in theirs.items():
            torch.testing.assert_close(ours[name], values, rtol=1e-2, atol=1e-3, equal_nan=True)


OPTIONS: dict[str, Any] = {
    "data__env__action_repeat": 2,
    "data__replay__n_step": 3,
    "data__collection__noise_beta": 1.0,
    "model__sac__critic_bins": 21,
    "model__sac__critic_pair": "mean",
    "model__sac__critic_blocks": 1,
    "model__sac__critic_width": 16,
    "model__sac__critic_weight_decay": 0.01,
    "data__env_steps": 120,
    "data__collection__start_steps": 20,
    "data__checkpoints__every": 20,
    "data__checkpoints__keep": 9,
    "model__log_every": 20,
}


@pytest.mark.parametrize(
    "settings",
    [
        {**SAC_ALONE, "data__replay__size": 40},
        {"data__seeds": "[0, 1]", "data__collection__num_workers": 1, "data__collection__overlap": "true"},
        {**SAC_ALONE, "data__env__obs": "pixels", "data__env__pixel_size": 24, "data__replay__batch_size": 8},
    ],
    ids=["dense-sac", "overlapped-furl", "pixels"],
)
def test_a_run_with_all_of_them_resumes_bit_for_bit(run: Run, tmp_path: Path, settings: dict[str, Any]) -> None:
    """In the middle of an episode, in the random phase and after it."""
    settings = {**OPTIONS, **settings}
    straight = run("straight", **settings)
    assert straight["FuRLDataModule"]["noise"].shape[2:] == (50, 4)
    for stop in (20, 80):
        checkpoint = tmp_path / "straight" / "checkpoints" / f"step-{stop:09d}.ckpt"
        resumed = run(f"from-{stop}", "--ckpt_path", str(checkpoint), **settings)
        assert_same(straight, resumed, ignore=("journal", "metrics"))
        later = [line for line in straight["metrics"][1:] if int(line.split(",")[0]) > stop]
        assert later == resumed["metrics"][1:]


def test_critics_of_another_kind_do_not_go_on(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does another number of steps an action; a checkpoint that says nothing of them is of a run without."""
    run("plain", **SAC_ALONE, data__env_steps=50)
    argv = ["--runs", str(tmp_path), "--name", "plain", "--ckpt_path", "last", "--data.env_steps", "100"]
    for flag, value, named in (
        ("model.sac.critic_blocks", "1", "1 blocks of width 512, the checkpoint's is none"),
        ("model.sac.critic_bins", "11", "11 bins over [-100.0, 100.0], the checkpoint's is none"),
        ("data.env.action_repeat", "2", "data.env.action_repeat is 2, the checkpoint's is 1"),
    ):
        assert fit([*argv, f"--{flag}", value]) == 2
        assert named in capsys.readouterr().err
    path = tmp_path / "plain" / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    module_identity = saved["identity"]
    old = {name: value for name, value in module_identity.items() if name not in LATER_OPTIONS}
    refuse_other_run({"identity": old}, module_identity)
    with pytest.raises(OtherRun, match="action_repeat is 2, the checkpoint's is 1"):
        refuse_other_run({"identity": old}, {**module_identity, "data.env.action_repeat": "2"})
