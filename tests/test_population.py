"""Members of a population are independent: of each other, and of who else is in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from tensordict import TensorDict
from torch import Tensor, nn

from furl_lightning.agents.networks import PopulationLinear
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.sac import SACSettings, td_target
from furl_lightning.agents.transitions import Transitions
from furl_lightning.envs.simulator import ACTION_DIM, OBS_DIM
from furl_lightning.method.alignment import AlignmentSettings
from furl_lightning.method.learner import Batch, Learner, Members, RewardSettings
from furl_lightning.method.relay import Relay, RelaySettings
from furl_lightning.method.success_memory import MemorySettings, SuccessMemory
from furl_lightning.randomness import Randomness
from furl_lightning.replay.buffer import FIELDS, ReplayBuffer
from furl_lightning.tasks import INSTRUCTIONS, Agent
from furl_lightning.vlm import VLM

AGENTS = [Agent("reach", 0), Agent("push", 1), Agent("window-open", 2)]
WIDTH, SIZE, LR = 20, 16, 3e-4
NO_GOAL_IMAGE = 2
"""The agent without a goal image."""
PHASES = [([1], [0, 2]), ([1], [0, 2]), ([0, 1], [0, 2]), ([0, 1, 2], [2]), ([0, 1, 2], [])]
"""Of each update: the agents in the success phase, and those still in the relay."""


class FakeVLM(VLM):
    """Embeddings that are numbers drawn from what is embedded."""

    width, name, fingerprint = WIDTH, "fake", "0" * 64

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1))

    def encode_images(self, frames: Tensor) -> Tensor:
        return torch.stack([self._draw(int(frame.sum())) for frame in frames])

    def encode_texts(self, texts: list[str]) -> Tensor:
        return torch.stack([self._draw(sum(text.encode())) for text in texts])

    def _draw(self, seed: int) -> Tensor:
        return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


class Population:
    """A learner of some agents, with their random streams."""

    def __init__(self, members: list[int]) -> None:
        self.members = members
        agents = [AGENTS[i] for i in members]
        randomness = Randomness(agents)
        self.generators = randomness.learning
        self.learner = Learner(
            randomness.init,
            OBS_DIM,
            ACTION_DIM,
            FakeVLM().encode_texts([INSTRUCTIONS[agent.task] for agent in agents]),
            reward=RewardSettings(rho=0.3),
            sac=SACSettings(hidden=(32, 24), lr=LR, tau=0.1),
            alignment=AlignmentSettings(lr=LR, hidden=16, width=8),
        )
        self.optimizers = self.learner.optimizers()

    def learn(
        self, updates: list[tuple[dict[str, Tensor], Tensor]], phases: list[tuple[list[int], list[int]]] = PHASES
    ) -> list[dict[str, Tensor]]:
        """Make the updates, each with all three agents' transitions and triples; returns the metrics."""
        return [self.learner.learn(*prepared, self.optimizers) for prepared in self.prepare(updates, phases)]

    def prepare(
        self, updates: list[tuple[dict[str, Tensor], Tensor]], phases: list[tuple[list[int], list[int]]] = PHASES
    ) -> Iterator[tuple[Members, dict[str, Tensor]]]:
        """What the learner learns from in each update."""
        for (transitions, triples), (after, relaying) in zip(updates, phases, strict=True):
            own = {name: values[self.members] for name, values in transitions.items()}
            rows = [self.members.index(i) for i in after if i in self.members]
            chosen = triples[self.members][rows] if rows else None
            before = [row for row, i in enumerate(self.members) if row not in rows and i != NO_GOAL_IMAGE]
            assert self.learner.relay is not None
            self.learner.relay.active = torch.tensor([i in relaying for i in self.members])
            yield self.learner.prepare(Batch(Transitions(**own), rows, chosen, before), self.generators)

    def of(self, member: int) -> dict[str, Tensor]:
        """One agent's parameters and Adam states."""
        row = self.members.index(member)
        out = {name: p.detach()[row] for name, p in self.learner.named_parameters()}
        for k, optimizer in enumerate(self.optimizers):
            assert optimizer is not None
            for j, state in enumerate(optimizer.state.values()):
                out.update({f"adam{k}/{j}/{name}": values[row] for name, values in state.items()})
        return {name: values.clone() for name, values in out.items()}


def make_updates(count: int = len(PHASES)) -> list[tuple[dict[str, Tensor], Tensor]]:
    g = torch.Generator().manual_seed(7)
    num = len(AGENTS)
    out = []
    for _ in range(count):
        transitions = {
            "observation": torch.randn(num, SIZE, OBS_DIM, generator=g),
            "next_observation": torch.randn(num, SIZE, OBS_DIM, generator=g),
            "action": torch.rand(num, SIZE, ACTION_DIM, generator=g) * 2 - 1,
            "reward": torch.randint(-1, 1, (num, SIZE), generator=g).float(),
            "discount": torch.ones(num, SIZE),
            "embedding": torch.randn(num, SIZE, WIDTH, generator=g),
            "goal_distance": 2 * torch.rand(num, SIZE, generator=g),
        }
        transitions["goal_distance"][NO_GOAL_IMAGE] = torch.nan
        out.append((transitions, torch.randn(num, 3, SIZE, WIDTH, generator=g)))
    return out


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, values in ours.items():
        assert torch.equal(values, theirs[name]), name


# -- the whole update


def test_population_starts_as_its_members_alone() -> None:
    population = Population([0, 1, 2])
    for i in range(3):
        assert_equal(population.of(i), Population([i]).of(i))


def test_population_of_3_learns_as_3_of_1() -> None:
    """Mixed phases and relays; the noise too is each agent's own."""
    population, updates = Population([0, 1, 2]), make_updates()
    metrics = population.learn(updates)
    for i in range(3):
        alone = Population([i])
        start = alone.of(i)
        for ours, theirs in zip(metrics, alone.learn(updates), strict=True):
            for name, values in ours.items():
                expected = theirs.get(name, torch.tensor([torch.nan]))
                assert torch.allclose(values[i], expected[0], rtol=1e-4, atol=1e-5, equal_nan=True), name
        ours, theirs = population.of(i), alone.of(i)
        assert ours.keys() == theirs.keys()
        for name in ours:
            if name.endswith("step"):
                assert torch.equal(ours[name], theirs[name]), name
        parameters = [name for name, _ in alone.learner.named_parameters()]
        error = torch.cat([(ours[n] - theirs[n]).abs().flatten() for n in parameters])
        # An entry whose gradient is next to zero may take a step of lr either way.
        assert float((error <= 1e-6).double().mean()) >= 0.999
        assert float(error.max()) <= 2 * LR
        assert all(not torch.equal(theirs[n], start[n]) for n in parameters if "weight" in n and "sac" not in n)


def test_updates_in_bfloat16_see_the_parameters_of_the_moment() -> None:
    """Several updates in one autocast context, as in an iteration of several steps, are those in one context each."""
    together, apart = Population([0, 1, 2]), Population([0, 1, 2])
    updates = make_updates()
    with torch.autocast("cpu", torch.bfloat16):
        together.learn(updates)
    for update, phase in zip(updates, PHASES, strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            apart.learn([update], [phase])
    for member in range(3):
        assert_equal(together.of(member), apart.of(member))


@pytest.mark.parametrize("by", [0.1, float("nan")], ids=["a-little", "nan"])
@pytest.mark.parametrize("perturbed", range(3))
def test_one_agents_batch_leaves_the_others_bit_equal(perturbed: int, by: float) -> None:
    undisturbed, disturbed = Population([0, 1, 2]), Population([0, 1, 2])
    expected = undisturbed.learn(make_updates())
    updates = make_updates()
    for transitions, triples in updates:
        for name in ("observation", "next_observation", "action", "reward", "embedding"):
            transitions[name][perturbed] += by
        triples[perturbed] += by
    metrics = disturbed.learn(updates)
    for i in range(3):
        if i == perturbed:
            continue
        assert_equal(disturbed.of(i), undisturbed.of(i))
        for ours, theirs in zip(metrics, expected, strict=True):
            for name, values in ours.items():
                assert torch.equal(values[i].nan_to_num(-7.0), theirs[name][i].nan_to_num(-7.0)), name
    ours, theirs = disturbed.of(perturbed), undisturbed.of(perturbed)
    weights = [name for name in ours if name.startswith(("vlm_agent", "reward")) and "weight" in name]
    assert weights
    assert not any(torch.equal(ours[name], theirs[name]) for name in weights)


def test_who_rests_is_not_touched() -> None:
    """Nothing to align for an agent without goal image before its success; no update out of the relay."""
    population = Population([0, 1, 2])
    before = [population.of(i) for i in range(3)]
    metrics = population.learn(make_updates())
    after = [population.of(i) for i in range(3)]
    for name in before[1]:
        if name.startswith(("sac_agent", "adam1")):  # agent 1 is out of the relay from the start
            assert torch.equal(before[1][name], after[1][name]), name
    counts = [[int(after[i][f"adam{k}/0/step"]) for i in range(3)] for k in range(3)]
    assert counts == [[5, 5, 5], [3, 0, 4], [5, 5, 2]]  # VLM agents, SAC agents, heads
    assert metrics[0]["sac/critic_loss/sac_agent"].isnan().tolist() == [False, True, False]
    assert metrics[0]["alignment/loss"].isnan().tolist() == [False, False, True]
    assert metrics[0]["alignment/loss_lag"].isnan().tolist() == [True, False, True]
    assert metrics[0]["alignment/ordered"].isnan().tolist() == [False, True, True]


def test_axes_are_checked_here() -> None:
    """An agent's row where all agents' are wanted would be broadcast in silence."""
    wide, narrow = torch.zeros(3, 5), torch.zeros(1, 5)
    td_target(wide, wide, 0.9, torch.zeros(3, 2, 5), torch.ones(3), wide)
    for wrong in ((narrow, wide), (wide, wide.T)):
        with pytest.raises(TypeCheckError):
            td_target(*wrong, 0.9, torch.zeros(3, 2, 5), torch.ones(3), wide)


# -- Adam


def test_population_adam_is_torchs_for_each_agent() -> None:
    g = torch.Generator().manual_seed(0)
    shapes, num = [(6, 5), (1, 5), ()], 3
    ours = [nn.Parameter(torch.randn(num, *shape, generator=g)) for shape in shapes]
    theirs = [[nn.Parameter(p.detach()[i].clone()) for p in ours] for i in range(num)]
    optimizer = PopulationAdam(ours, LR)
    optimizers = [torch.optim.Adam(own, LR, foreach=False) for own in theirs]
    for agents in (None, None, [1], [0, 2], None, [2, 1], []):
        before = [p.detach().clone() for p in ours]
        for j, p in enumerate(ours):
            p.grad = torch.randn(p.shape, generator=g)
            for i in range(num):
                theirs[i][j].grad = p.grad[i].clone()
        optimizer.step(agents=agents)
        for i in range(num):
            if agents is None or i in agents:
                optimizers[i].step()
            else:
                assert all(torch.equal(p.detach()[i], old[i]) for p, old in zip(ours, before, strict=True))
            for p, own in zip(ours, theirs[i], strict=True):
                torch.testing.assert_close(p.detach()[i], own.detach(), rtol=1e-6, atol=1e-7)


def test_population_adam_takes_gradients_of_any_layout() -> None:
    """A convolution's gradient may lie in memory channels last."""
    grad = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    stepped = []
    for laid_out in (grad, grad.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)):
        p = nn.Parameter(torch.ones_like(grad))
        p.grad = laid_out
        PopulationAdam([p], LR).step()
        stepped.append(p.detach())
    assert torch.equal(*stepped)


def test_population_adam_leaves_resting_agents_moments() -> None:
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = PopulationAdam([p], LR)
    p.grad = torch.ones(2, 3)
    optimizer.step()
    kept = {name: values[1].clone() for name, values in optimizer.state[p].items()}
    optimizer.step(agents=[0])
    assert all(torch.equal(optimizer.state[p][name][1], values) for name, values in kept.items())
    assert optimizer.state[p]["step"].tolist() == [2.0, 1.0]


def test_population_adam_goes_on_from_its_state() -> None:
    def stepped(restart: bool) -> Tensor:
        p = nn.Parameter(torch.ones(2, 3))
        optimizer = PopulationAdam([p], LR)
        for k, agents in enumerate((None, [0], None)):
            if restart:
                state = optimizer.state_dict()
                optimizer = PopulationAdam([p], LR)
                optimizer.load_state_dict(state)
            p.grad = torch.full((2, 3), 1.0 + k)
            optimizer.step(agents=agents)
        return p.detach()

    assert torch.equal(stepped(True), stepped(False))


# -- relay


def test_relay_turns() -> None:
    relay = Relay(2, RelaySettings(turns=(2, 3)))
    acts = []
    for _ in range(3):
        relay.begin_episode_with(torch.tensor([2, 3]))
        acts.append(torch.stack([relay.sac_acts(step) for step in range(7)]).int().T.tolist())
    even, odd = [[0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1, 0]], [[1, 1, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0, 1]]
    assert acts == [even, odd, even]


def test_relay_retires_agents_for_good_and_one_by_one() -> None:
    relay = Relay(3, RelaySettings(turns=(5,), threshold=10))
    relay.retire(torch.tensor([9, 10, 0]))
    assert relay.active.tolist() == [True, False, True]
    relay.retire(torch.tensor([11, 0, 3]))  # an agent that left does not come back
    assert relay.active.tolist() == [False, False, True]
    relay.begin_episode_with(torch.tensor([5, 5, 5]))
    assert [relay.sac_acts(step).tolist() for step in (0, 5)] == [[False] * 3, [False, False, True]]
    restored = Relay(3, RelaySettings(turns=(5,), threshold=10))
    restored.load_state_dict(relay.state_dict())
    assert [restored.sac_acts(s).tolist() for s in range(12)] == [relay.sac_acts(s).tolist() for s in range(12)]


def test_relay_draws_every_turn_from_the_agents_own_numbers() -> None:
    alone, together = Relay(1), Relay(3)
    own, all_three = Randomness(AGENTS[1:2]).exploration, Randomness(AGENTS).exploration
    drawn = set()
    for _ in range(40):
        alone.begin_episode(own)
        together.begin_episode(all_three)
        assert alone.turn[0] == together.turn[1]
        drawn.add(int(alone.turn[0]))
    assert drawn == {50, 100, 150, 200}


# -- success memory


@pytest.mark.parametrize("gap", [1, 4])
def test_ring_draws_lags_of_the_same_episode(gap: int) -> None:
    """Against a plain list of what the ring should hold, through many wrap-arounds."""
    capacity, length = 37, 12
    memory = SuccessMemory(2, 2, MemorySettings(capacity, gap))
    held: deque[tuple[int, int]] = deque(maxlen=capacity)
    g = torch.Generator().manual_seed(3)
    wrapped = 0
    for episode in range(60):
        start = int(torch.randint(length, (), generator=g))
        success = torch.zeros(length, dtype=torch.bool)
        success[start : start + int(torch.randint(1, length, (), generator=g))] = True
        frames = torch.stack([torch.full((length,), episode), torch.arange(length)], 1)
        memory.add_episode(1, frames.float(), success)
        taken = start + int(success[start:].int().cumprod(0).sum())
        held.extend((episode, frame) for frame in range(taken))
        wrapped += len(held) == capacity
        expected = sorted((e, f) for e, f in held if f >= gap and (e, f - gap) in held)
        size = int(memory.valid_size[1])
        index = torch.arange(size)[None]
        if size:
            ((positive, lag, _),) = memory.triples([1], index, torch.zeros_like(index))
            assert sorted(map(tuple, positive.int().tolist())) == expected
            assert torch.equal(lag, positive - torch.tensor([0.0, gap]))
        else:
            assert not expected
    assert wrapped > 30
    assert memory.valid_size[0] == memory.positives[0] == 0
    assert not memory.drawable.any()  # nothing has failed yet
    memory.add_episode(1, -torch.ones(length, 2), torch.zeros(length, dtype=torch.bool))
    assert memory.drawable.tolist() == [False, True]
    ((positive, lag, negative),) = memory.draw([1], 500, [torch.Generator(), torch.Generator()])
    assert torch.equal(lag, positive - torch.tensor([0.0, gap]))
    assert bool((negative == -1).all())
    assert {tuple(row) for row in positive.int().tolist()} == set(expected)


@pytest.mark.parametrize("columns", [1, 4])
def test_a_narrow_output_layer_is_the_plain_product(columns: int) -> None:
    layer = PopulationLinear([3], 5, columns, output=True).double()
    layer.reset_parameters([torch.Generator().manual_seed(i) for i in range(3)])
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 7, columns, dtype=torch.float64)
    ours, plain = layer(x), torch.baddbmm(layer.bias, x, layer.weight)
    wrt = [x, layer.weight, layer.bias]
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        torch.autograd.grad((ours * upstream).sum(), wrt), torch.autograd.grad((plain * upstream).sum(), wrt)
    )
    assert all(grad.is_contiguous() for grad in torch.autograd.grad(layer(x).sum(), wrt))


def test_memory_draws_are_the_agents_own() -> None:
    g = torch.Generator().manual_seed(0)
    episodes = torch.randn(3, 2, 20, 4, generator=g)
    success = torch.arange(20) >= 15
    together = SuccessMemory(3, 4, MemorySettings(size=100, gap=5))
    alone = SuccessMemory(1, 4, MemorySettings(size=100, gap=5))
    for i in range(3):
        together.add_episode(i, episodes[i, 0], success)
        together.add_episode(i, episodes[i, 1], torch.zeros_like(success))
    alone.add_episode(0, episodes[1, 0], success)
    alone.add_episode(0, episodes[1, 1], torch.zeros_like(success))
    own, all_three = Randomness(AGENTS[1:2]).learning, Randomness(AGENTS).learning
    assert torch.equal(together.draw([1, 2], 8, all_three)[0], alone.draw([0], 8, own)[0])


def test_memory_refuses_another_width() -> None:
    with pytest.raises(ValueError, match=r"must be \[5, 4\], not \[5, 3\]"):
        SuccessMemory(1, 4, MemorySettings(size=10)).add_episode(0, torch.zeros(5, 3), torch.zeros(5, dtype=torch.bool))


# -- replay


def steps(start: int, end: int, num: int) -> TensorDict:
    """Steps whose numbers name them: 100 * step + agent."""
    number = 100.0 * torch.arange(start, end)[:, None] + torch.arange(num)
    fields: dict[str, Any] = dict.fromkeys(("reward", "goal_distance"), number)
    fields["terminated"] = torch.zeros_like(number, dtype=torch.bool)
    for name, width in (("observation", 3), ("next_observation", 3), ("action", 2)):
        fields[name] = number[..., None].expand(-1, -1, width)
    fields["embedding"] = fields["observation"].half()
    return TensorDict(fields, [end - start, num])


def test_replay_wraps() -> None:
    replay = ReplayBuffer(10)
    for start, end in ((0, 4), (4, 9), (9, 13), (13, 23)):
        replay.extend(steps(start, end, 2))
        held = range(max(0, end - 10), end)
        assert len(replay) == len(held)
        place = torch.arange(len(replay))[None].expand(2, -1)
        rewards = replay.at(place)["reward"]
        for i in range(2):
            assert sorted(rewards[i].tolist()) == [100.0 * t + i for t in held]
            assert all(t // 100 % 10 == k for k, t in enumerate(rewards[i].int().tolist()))
        assert replay.last(3, "reward")[:, 1].tolist() == [100.0 * t + 1 for t in range(end - 3, end)]
    assert replay.steps(14, 21)["action"][:, 0, 0].tolist() == [100.0 * t for t in range(14, 21)]
    with pytest.raises(ValueError, match="steps 12 to 15 are not held; the buffer has 13 to 23"):
        replay.steps(12, 15)


def test_replay_samples_each_agents_own_numbers() -> None:
    together, alone = ReplayBuffer(50), ReplayBuffer(50)
    together.extend(steps(0, 40, 3))
    alone.extend(steps(0, 40, 3)[:, 1:2])
    ours = together.sample(64, Randomness(AGENTS).learning)
    theirs = alone.sample(64, Randomness(AGENTS[1:2]).learning)
    for name in FIELDS:
        assert torch.equal(ours[name][1], theirs[name][0]), name
    assert not torch.equal(ours["reward"][0], ours["reward"][1] - 1)
    assert len(set(ours["reward"][1].tolist())) > 20


@pytest.mark.parametrize("end", [7, 10, 24])
def test_replay_restores_every_entry_where_it_stood(end: int) -> None:
    replay, restored = ReplayBuffer(10), ReplayBuffer(10)
    for start in range(0, end, 3):
        replay.extend(steps(start, min(start + 3, end), 2))
    oldest, middle = end - len(replay), end - 4
    for first, last in ((oldest, middle), (middle, end)):
        restored.restore(TensorDict(replay.steps(first, last), [last - first, 2]), last)
    place = torch.arange(len(replay))[None].expand(2, -1)
    for _ in range(2):
        assert len(restored) == len(replay)
        for name in FIELDS:
            assert torch.equal(restored.at(place)[name], replay.at(place)[name]), name
        replay.extend(steps(end, end + 2, 2))
        restored.extend(steps(end, end + 2, 2))
        end += 2
        place = torch.arange(len(replay))[None].expand(2, -1)
