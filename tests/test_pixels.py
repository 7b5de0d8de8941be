"""Policies that see pixels: encoder, random shift, stacks out of frames that are held once, and DrQ learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from furl_lightning.agents.encoder import ConvEncoder, FrameStack, draw_shifts, random_shift
from furl_lightning.agents.networks import reset_parameters
from furl_lightning.agents.sac import SAC, SACSettings
from furl_lightning.agents.transitions import Transitions
from furl_lightning.commands.fit import fit
from furl_lightning.data.policy import ActorCopy
from furl_lightning.envs.population import shrink
from furl_lightning.randomness import normal
from furl_lightning.replay.pixel_buffer import PixelReplayBuffer

from .conftest import Run, assert_same

CONF = Path(__file__).resolve().parents[1] / "conf"


def generators(num: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(num)]


def noise_frames(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (*shape, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


# -- encoder


def test_encoder_of_a_population_is_its_members_alone() -> None:
    """Against plain torch convolutions with each member's weights, forwards and backwards."""
    num, size = 3, 21
    encoder = ConvEncoder(num, size)
    reset_parameters(encoder, generators(num))
    encoder.norm.weight.data += 0.1 * torch.randn(encoder.norm.weight.shape, generator=generators(1)[0])
    stacks = noise_frames(num, 5, 3, size, size)
    together = encoder(stacks)
    assert together.shape == (num, 5, encoder.width)
    together.square().sum().backward()
    for i in range(num):
        alone = ConvEncoder(1, size)
        reset_parameters(alone, [generators(num)[i]])
        alone.norm.weight.data = encoder.norm.weight.data[i : i + 1]
        own = alone(stacks[i : i + 1])
        torch.testing.assert_close(own[0], together[i], rtol=1e-5, atol=1e-5)
        own.square().sum().backward()
        for ours, theirs in zip(alone.parameters(), encoder.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            torch.testing.assert_close(ours.grad[0], theirs.grad[i], rtol=1e-3, atol=1e-4)

        parameters = {name: p.detach()[0] for name, p in alone.named_parameters()}
        x = stacks[i].permute(0, 1, 4, 2, 3).flatten(1, 2) / 255.0  # [B, 9, S, S]
        for k, stride in enumerate((2, 1, 1, 1)):
            x = F.conv2d(x, parameters[f"convolutions.{k}.weight"], parameters[f"convolutions.{k}.bias"], stride).relu()
        x = x.flatten(1) @ parameters["linear.weight"] + parameters["linear.bias"]
        norm = nn.LayerNorm(50)
        norm.weight.data, norm.bias.data = parameters["norm.weight"][0], parameters["norm.bias"][0]
        torch.testing.assert_close(norm(x).tanh(), own[0], rtol=1e-4, atol=1e-4)
    some = torch.tensor([2, 0])
    torch.testing.assert_close(encoder(stacks[some], some), together[some], rtol=1e-5, atol=1e-5)


def test_one_agents_frames_reach_no_other() -> None:
    encoder = ConvEncoder(3, 21)
    reset_parameters(encoder, generators(3))
    stacks = noise_frames(3, 4, 3, 21, 21)
    before = encoder(stacks)
    stacks[1] = 255 - stacks[1]
    after = encoder(stacks)
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.equal(before[1], after[1])


def test_the_encoder_is_trained_by_the_critic_alone() -> None:
    """The actor's gradient does not reach it: without a critic's error it would stand still."""
    agent, g = SAC(2, 50, 2, SACSettings(hidden=(16,), lr=1e-3, tau=0.5), ConvEncoder(2, 15)), generators(2)
    agent.reset_parameters(g)
    optimizer = agent.optimizer()
    batch = Transitions(
        observation=noise_frames(2, 4, 3, 15, 15),
        next_observation=noise_frames(2, 4, 3, 15, 15, seed=1),
        action=torch.zeros(2, 4, 2),
        reward=torch.zeros(2, 4),
        discount=torch.ones(2, 4),
    )
    assert agent.encoder is not None and agent.target_encoder is not None
    start = [p.detach().clone() for p in agent.encoder.parameters()]
    for p, old in zip(agent.target_encoder.parameters(), start, strict=True):
        assert torch.equal(p, old)
    features = agent.encoder(batch.observation)
    q = agent.critic(features, batch.action)
    with torch.no_grad():
        next_action, log_prob = agent.actor.sample(agent.encoder(batch.next_observation), torch.zeros(2, 4, 2))
        next_q = agent.target_critic(agent.target_encoder(batch.next_observation), next_action).amin(1)
        target = 0.99 * (next_q - log_prob)
    loss = (q - target[:, None]).square().sum(1).mean(-1).sum()
    expected = torch.autograd.grad(loss, list(agent.encoder.parameters()))
    noise = torch.zeros(2, 4, 2)
    agent.update(batch, torch.zeros(2, 4), normal(g, 4, 2), noise, optimizer)
    for p, grad, old, target_p in zip(
        agent.encoder.parameters(), expected, start, agent.target_encoder.parameters(), strict=True
    ):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(target_p, (old + p.detach()) / 2)


# -- frames


def test_random_shift_is_a_crop_of_the_padded_picture() -> None:
    stacks, pad = noise_frames(2, 50, 3, 12, 12), 4
    shift = draw_shifts(generators(2), 50, most=pad)
    assert (int(shift.min()), int(shift.max())) == (-pad, pad)
    shifted = random_shift(stacks, shift)
    for i in range(2):
        for b in range(50):
            picture = stacks[i, b].permute(0, 3, 1, 2).float()
            padded = F.pad(picture, (pad, pad, pad, pad), mode="replicate")
            top, left = (pad - shift[i, b]).tolist()
            crop = padded[:, :, top : top + 12, left : left + 12].permute(0, 2, 3, 1)
            assert torch.equal(shifted[i, b].float(), crop)


def test_frames_are_shrunk_by_area() -> None:
    pixels = noise_frames(2, 192, 192)
    small = shrink(pixels, 84)
    assert small.shape == (2, 84, 84, 3) and small.dtype == torch.uint8
    assert abs(float(small.float().mean() - pixels.float().mean())) < 1
    stripes = torch.zeros(1, 192, 192, 3, dtype=torch.uint8)
    stripes[:, ::2] = 200  # every other row: without antialiasing some rows would come out black or full
    inner = shrink(stripes, 48)[:, 2:-2]
    assert int(inner.min()) >= 90 and int(inner.max()) <= 110


EPISODE, SIZE = 7, 2


def picture(agent: int, episode: int, frame: int) -> Tensor:
    """A frame that says where it comes from."""
    return torch.tensor([agent, episode, frame], dtype=torch.uint8).expand(SIZE, SIZE, 3)


def transitions(start: int, end: int, num: int) -> TensorDict:
    rows = [[picture(i, n // EPISODE, n % EPISODE + 1) for i in range(num)] for n in range(start, end)]
    number = torch.arange(start, end).float()[:, None].expand(-1, num)
    fields = {
        "action": number[..., None].expand(-1, -1, 4),
        "reward": number,
        "terminated": torch.zeros_like(number, dtype=torch.bool),
        "frame": torch.stack([torch.stack(row) for row in rows]),
    }
    return TensorDict(fields, [end - start, num])


def fill(replay: PixelReplayBuffer, start: int, end: int, num: int) -> None:
    """Append steps, with the resets' frames where episodes begin."""
    while start < end:
        if start % EPISODE == 0:
            replay.begin_episode(torch.stack([picture(i, start // EPISODE, 0) for i in range(num)]))
        stop = min(end, (start // EPISODE + 1) * EPISODE)
        replay.extend(transitions(start, stop, num))
        start = stop


def assert_stacks(replay: PixelReplayBuffer, num: int) -> None:
    """Everything that may be drawn is right, and only what the ring's end has cut off may not."""
    held = range(replay.first_drawable, replay.steps_written)
    number = torch.tensor(held)[None].expand(num, -1)
    batch = replay.at(number)
    assert torch.equal(batch["reward"], number.float())
    for i in range(num):
        for b, n in enumerate(held):
            episode, step = divmod(n, EPISODE)
            expected = [max(0, step + j) for j in (-2, -1, 0, 1)]
            assert batch["frames"][i, b, :, 0, 0].tolist() == [[i, episode, k] for k in expected]
    complete = [
        n for n in range(replay.oldest, replay.steps_written) if max(n - 3, n // EPISODE * EPISODE) >= replay.oldest
    ]
    assert list(held) == complete


@pytest.mark.parametrize("capacity", [7, 20, 21, 28, 33])
def test_stacks_at_an_episodes_start_and_across_the_rings_end(capacity: int) -> None:
    replay = PixelReplayBuffer(capacity, episode_steps=EPISODE)
    for start in range(0, 90):
        fill(replay, start, start + 1, 2)
        assert_stacks(replay, 2)
    drawn = replay.draw(5000, generators(2))
    assert set(drawn[0].tolist()) == set(range(replay.first_drawable, 90))
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("end", [5, 20, 21, 37, 50])
def test_frames_are_restored_where_they_stood(end: int) -> None:
    """From the pieces that a checkpoint writes, as :class:`Journal` hands them back."""
    replay, restored = PixelReplayBuffer(20, episode_steps=EPISODE), PixelReplayBuffer(20, episode_steps=EPISODE)
    fill(replay, 0, end, 2)
    middle = (replay.oldest + end) // 2
    for first, last in ((replay.oldest, middle), (middle, end)):
        restored.restore({name: values.clone() for name, values in replay.steps(first, last).items()}, last)
    for more in range(3):
        assert restored.bytes_per_transition == replay.bytes_per_transition
        assert_stacks(restored, 2)
        for one in (replay, restored):
            fill(one, end + more, end + more + 1, 2)


def test_an_episode_begins_where_it_may() -> None:
    replay = PixelReplayBuffer(20, episode_steps=EPISODE)
    with pytest.raises(ValueError, match="its first frame is missing"):
        replay.extend(transitions(0, 1, 1))
    fill(replay, 0, 3, 1)
    with pytest.raises(ValueError, match="an episode of 7 steps cannot begin at step 3"):
        replay.begin_episode(picture(0, 0, 0)[None])


def test_a_policy_sees_what_the_replay_holds() -> None:
    replay, stack = PixelReplayBuffer(20, episode_steps=EPISODE), FrameStack()
    fill(replay, 0, 12, 1)
    for n in range(12):
        episode, step = divmod(n, EPISODE)
        seen = stack.push(picture(0, episode, step)[None], first=step == 0)
        assert torch.equal(seen[0], replay.at(torch.tensor([[n]]))["frames"][0, 0, :-1])


# -- runs

PIXELS: dict[str, Any] = {"data__env__obs": "pixels", "data__env__pixel_size": 24, "data__replay__batch_size": 8}


def test_resumed_pixel_run_is_bit_equal(run: Run) -> None:
    """FuRL on pixels, overlapped, stopped in the middle of an episode, after the ring has wrapped."""
    collection = {"start_steps": 60, "num_workers": 1, "overlap": "true"}
    settings = {**PIXELS, "data__replay__size": 50}
    settings |= {f"data__collection__{name}": value for name, value in collection.items()}
    straight = run("straight", **settings, data__env_steps=80)
    run("stopped", **settings, data__env_steps=70)
    resumed = run("stopped", "--ckpt_path", "last", **settings, data__env_steps=80)
    resumed["metrics"] = [line for line in resumed["metrics"] if not line.startswith("70,eval/")]
    assert_same(straight, resumed, ignore=("journal", "callbacks"))
    assert {"learner.vlm_agent.encoder.linear.weight", "learner.sac_agent.target_encoder.linear.weight"} <= set(
        straight["state_dict"]
    )


def test_a_transition_takes_less_than_22_kilobytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """84 x 84 pixels and the package's own VLM; the number is printed, logged, and that of the memory taken."""
    argv = ["--config", str(CONF / "obs/pixels.yaml"), "--data.tasks", "[reach]", "--data.env_steps", "50"]
    argv += ["--data.collection.start_steps", "50", "--data.collection.steps_per_iteration", "50"]
    argv += ["--data.goal_image", "false", "--model.log_every", "50", "--data.env.episode_steps", "50"]
    assert fit([*argv, "--name", "p", "--runs", str(tmp_path), "--trainer.accelerator", "cpu"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "replay buffer:" in line)
    size = int(line.split("replay buffer: ")[1].split(" bytes")[0].replace(",", ""))
    # frame, its share of the reset's, embedding, action, reward, terminated
    frame = 84 * 84 * 3
    assert size == frame + round(frame / 50) + 2 * 128 + 4 * 4 + 4 + 1
    assert size - round(frame / 50) + round(frame / 500) < 22_000  # in episodes of Meta-World's own length
    rows = [row.split(",") for row in (tmp_path / "p/metrics.csv").read_text().splitlines()]
    assert {float(value) for _, tag, value in rows if tag == "replay/transition_bytes"} == {size}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--data.env.pixel_size", "193"], ["data.env.pixel_size must be between 15 and 192, not 193"]),
        (["--data.env.pixel_size", "14"], ["data.env.pixel_size must be between 15 and 192, not 14"]),
        (
            ["--data.env.obs", "pixels", "--data.env.pixel_size", "113"],
            ["data.env.pixel_size 113", "model.vlm sees (112)"],
        ),
        (["--data.env.obs", "pixel"], ["data.env.obs must be state or pixels, not 'pixel'; the nearest is 'pixels'"]),
    ],
)
def test_contradictions(flags: list[str], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit([*flags, "--name", "bad", "--runs", str(tmp_path / "runs")]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("furl-fit:"))
    assert all(name in line for name in named), line
    assert not (tmp_path / "runs").exists()


# -- learning


class Dot:
    """A agents; each moves a white dot on a black square and is to bring it onto a red one.

    Frames [A, S, S, 3]; actions [A, 2] in [-1, 1] move the white dot by 0.3 of the square at most. The
    reward is the distance, negative.
    """

    length, size = 6, 17

    def __init__(self, num: int, seed: int) -> None:
        self.num, self.generator = num, torch.Generator().manual_seed(seed)

    def reset(self) -> Tensor:
        self.place, self.goal = torch.rand(2, self.num, 2, generator=self.generator)
        return self.draw()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        self.place = (self.place + 0.3 * action).clamp(0.0, 1.0)
        return self.draw(), -self.distance()

    def distance(self) -> Tensor:
        return (self.place - self.goal).norm(dim=-1)

    def draw(self) -> Tensor:
        axis = torch.arange(self.size)
        frame = torch.zeros(self.num, self.size, self.size, 3, dtype=torch.uint8)
        for dot, colour in ((self.goal, (255, 0, 0)), (self.place, (255, 255, 255))):
            centre = 2 + dot * (self.size - 5)
            near = [(axis - centre[:, k, None]).abs() < 1.6 for k in range(2)]
            frame[near[0][:, :, None] & near[1][:, None, :]] = torch.tensor(colour, dtype=torch.uint8)
        return frame


def share_reached(agent: SAC, episodes: int = 40) -> float:
    """Share of deterministic episodes that end on the red dot."""
    world, reached = Dot(1, seed=1000), []
    for _ in range(episodes):
        frame, stack = world.reset(), FrameStack()
        for t in range(world.length):
            with torch.no_grad():
                frame, _ = world.step(agent.deterministic(stack.push(frame, first=t == 0)[:, None])[:, 0])
        reached.append(world.distance() < 0.18)
    return float(torch.cat(reached).float().mean())


def test_drq_learns_to_bring_a_dot_onto_another() -> None:
    """From pixels alone, in about half a minute on one core; a policy that does not look seldom gets there."""
    batch_size, random_episodes = 64, 10
    world, g = Dot(1, seed=0), generators(1)
    agent = SAC(1, 50, 2, SACSettings(hidden=(64,), lr=2e-3, gamma=0.6, tau=0.05), ConvEncoder(1, world.size))
    agent.reset_parameters(g)
    agent.log_alpha.data.fill_(-3.0)
    optimizer = agent.optimizer()
    replay = PixelReplayBuffer(3000, episode_steps=world.length)
    assert share_reached(agent) < 0.3
    for episode in range(180):
        frame, stack = world.reset(), FrameStack()
        replay.begin_episode(frame)
        for t in range(world.length):
            observation = stack.push(frame, first=t == 0)[:, None]
            with torch.no_grad():
                action = ActorCopy(agent).explore(observation, normal(g, 1, 2))[:, 0]
            if episode < random_episodes:
                action = torch.rand(1, 2, generator=g[0]) * 2 - 1
            frame, reward = world.step(action)
            step = {"action": action, "reward": reward, "terminated": torch.tensor([False]), "frame": frame}
            replay.extend(TensorDict({name: values[None] for name, values in step.items()}, [1, 1]))
            if episode < random_episodes:
                continue
            fields = replay.sample(batch_size, g)
            shift = draw_shifts(g, 2, batch_size, most=1)
            before, after = fields["frames"][:, :, :-1], fields["frames"][:, :, 1:]
            batch = Transitions(
                observation=random_shift(before, shift[:, 0]),
                next_observation=random_shift(after, shift[:, 1]),
                action=fields["action"],
                reward=fields["reward"],
                discount=torch.ones(1, batch_size),
            )
            noise = normal(g, 2, batch_size, 2)
            agent.update(batch, batch.reward, noise[:, 0], noise[:, 1], optimizer)
    assert share_reached(agent) > 0.45  # 0.52 to above 0.6 by the processor's rounding
