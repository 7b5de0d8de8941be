"""What is drawn from the replay buffer and from the success memory, and from where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict

from furl_lightning.method.success_memory import MemorySettings, SuccessMemory
from furl_lightning.replay.buffer import FIELDS, ReplayBuffer, ReplaySettings
from furl_lightning.replay.pixel_buffer import PixelReplayBuffer
from furl_lightning.replay.successful_episodes import SuccessfulEpisodes
from furl_lightning.utils.errors import BadInput


def generators(num: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(num)]


# -- replay buffer


def steps(start: int, end: int, num: int) -> TensorDict:
    """Steps whose numbers name them: 10 * step + agent."""
    number = 10.0 * torch.arange(start, end)[:, None] + torch.arange(num)
    shapes = {"observation": (3,), "next_observation": (3,), "action": (2,), "embedding": (3,)}
    fields = {name: number.view(*number.shape, *[1] * len(shapes.get(name, ()))) for name in FIELDS}
    return TensorDict(
        {name: values.expand(*number.shape, *shapes.get(name, ())).clone() for name, values in fields.items()},
        [end - start, num],
    )


@pytest.mark.parametrize("end", [4, 10, 33])
def test_every_step_in_the_buffer_is_drawn_and_no_other(end: int) -> None:
    replay = ReplayBuffer(10)
    for start in range(0, end, 4):
        replay.extend(steps(start, min(start + 4, end), 2))
    drawn = replay.draw(2_000, generators(2))
    counts = torch.stack([row.bincount(minlength=end) for row in drawn])
    in_buffer = torch.arange(end) >= end - 10
    assert (counts[:, ~in_buffer] == 0).all()
    assert (counts[:, in_buffer] > 0.6 * 2_000 / len(replay)).all()
    assert (counts[:, in_buffer] < 1.5 * 2_000 / len(replay)).all()
    batch = replay.at(drawn)
    for name in FIELDS:
        values = batch[name].flatten(2).mean(-1) if batch[name].dim() > 2 else batch[name]
        assert torch.equal(values, 10.0 * drawn + torch.tensor([[0], [1]])), name


def test_more_steps_at_once_than_the_buffer_has_room_for() -> None:
    replay = ReplayBuffer(10)
    replay.extend(steps(0, 3, 2))
    replay.extend(steps(3, 28, 2))
    assert (replay.oldest, len(replay), replay.steps_written) == (18, 10, 28)
    assert replay.steps(18, 28)["reward"][:, 0].tolist() == [10.0 * n for n in range(18, 28)]


@pytest.mark.parametrize("longest", [1, 4, 100])
def test_parts_are_views_that_cover_the_steps(longest: int) -> None:
    replay = ReplayBuffer(10)
    replay.extend(steps(0, 7, 2))
    replay.restore(steps(20, 25, 2), 25)  # after a gap: place 0 is step 20's
    replay.extend(steps(25, 34, 2))
    parts = list(replay.parts(24, longest))
    assert [n for first, end in parts for n in range(first, end)] == list(range(24, 34))
    assert all(0 < end - first <= longest for first, end in parts)
    memory = {values.untyped_storage().data_ptr() for values in replay.steps(*parts[0]).values()}
    for first, end in parts:
        piece = replay.steps(first, end)
        assert piece["reward"][:, 1].tolist() == [10.0 * n + 1 for n in range(first, end)]
        assert {values.untyped_storage().data_ptr() for values in piece.values()} == memory
    assert len(parts) == (2 if longest == 100 else -(-6 // longest) + -(-4 // longest))


def test_restored_steps_that_do_not_follow_begin_the_buffer_anew() -> None:
    """A run's files may have a hole: early ones are kept for their success-memory frames alone."""
    replay = ReplayBuffer(10)
    replay.restore(steps(0, 6, 2), 6)
    replay.restore(steps(13, 17, 2), 17)
    assert (replay.oldest, replay.first_drawable, len(replay), replay.steps_written) == (13, 13, 4, 17)
    assert set(replay.draw(200, generators(2)).flatten().tolist()) == {13, 14, 15, 16}
    assert replay.last(4, "reward")[:, 0].tolist() == [130.0, 140.0, 150.0, 160.0]
    with pytest.raises(ValueError, match="steps 12 to 14 are not held; the buffer has 13 to 17"):
        replay.steps(12, 14)
    replay.restore(steps(17, 25, 2), 25)
    assert (replay.oldest, len(replay)) == (15, 10)
    number = torch.arange(15, 25)[None].expand(2, -1)
    assert torch.equal(replay.at(number)["reward"], 10.0 * number + torch.tensor([[0], [1]]))


def test_a_buffer_that_is_smaller_than_before_takes_the_newest_steps() -> None:
    replay = ReplayBuffer(10)
    replay.restore(steps(0, 14, 2), 14)
    assert (replay.oldest, replay.steps_written) == (4, 14)
    assert replay.last(10, "reward")[:, 0].tolist() == [10.0 * n for n in range(4, 14)]


def test_the_first_frame_of_an_episode_overwrites_none_that_is_still_drawable() -> None:
    replay = PixelReplayBuffer(6, fields=("reward", "frame"), episode_steps=3, stack=2)
    for number in range(2):
        replay.begin_episode(torch.full((1, 1, 1, 3), 10 * number, dtype=torch.uint8))
        frame = (10 * number + torch.arange(1, 4, dtype=torch.uint8)).view(3, 1, 1, 1, 1).expand(-1, -1, -1, -1, 3)
        replay.extend(TensorDict({"reward": torch.zeros(3, 1), "frame": frame}, [3, 1]))
    for _ in range(2):
        stacks = replay.at(torch.arange(6)[None])["frames"][0, :, :, 0, 0, 0]
        assert stacks.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [10, 10, 11], [10, 11, 12], [11, 12, 13]]
        replay.begin_episode(torch.full((1, 1, 1, 3), 20, dtype=torch.uint8))


# -- success memory


def episode(first: float, length: int = 6) -> torch.Tensor:
    """Frames [length, 1] that are numbered from ``first`` on."""
    return first + torch.arange(length).float()[:, None]


def test_an_agent_is_drawable_with_a_lagged_positive_and_a_negative() -> None:
    memory = SuccessMemory(4, 1, MemorySettings(size=50, gap=4))
    failure, late, early = torch.zeros(6, dtype=torch.bool), torch.arange(6) == 4, torch.arange(6) == 3
    for agent, outcomes in enumerate([[failure], [late], [failure, early], [failure, late]]):
        for success in outcomes:
            memory.add_episode(agent, episode(0), success)
    assert memory.positives.tolist() == [0, 5, 4, 5]
    assert memory.negatives.tolist() == [6, 0, 6, 6]
    assert memory.drawable.tolist() == [False, False, False, True]


@pytest.mark.parametrize("episodes", [1, 2, 7])
def test_negatives_are_drawn_from_the_whole_ring(episodes: int) -> None:
    """However many positives there are, and after the ring has wrapped."""
    memory, size = SuccessMemory(2, 1, MemorySettings(size=20, gap=1)), 20
    memory.add_episode(1, episode(-10), torch.arange(6) == 2)  # positives -10, -9, -8
    for number in range(episodes):
        memory.add_episode(1, episode(6 * number), torch.zeros(6, dtype=torch.bool))
    ((positive, lag, negative),) = memory.draw([1], 3_000, generators(2))
    held = range(max(0, 6 * episodes - size), 6 * episodes)
    counts = negative.long().flatten().bincount(minlength=6 * episodes)
    assert counts.nonzero().flatten().tolist() == list(held)
    assert counts[counts > 0].min() > 0.6 * 3_000 / len(held) and counts.max() < 1.5 * 3_000 / len(held)
    assert set(positive.flatten().tolist()) == {-9.0, -8.0}
    assert torch.equal(lag, positive - 1)


def test_frames_after_the_successes_go_nowhere() -> None:
    """Also where successes come back, and where the episode ends in failure."""
    memory = SuccessMemory(1, 1, MemorySettings(size=50, gap=1))
    memory.add_episode(0, episode(0, 8), torch.tensor([0, 0, 1, 1, 0, 1, 1, 0]).bool())
    assert memory.positives.tolist() == [4] and memory.negatives.tolist() == [0]
    assert memory.positive[0, :5, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 0.0]


def test_the_published_lag_wraps_at_the_number_of_drawable_positives() -> None:
    """So the lag of a frame may be one of another episode, even before the ring is full."""
    memory = SuccessMemory(1, 1, MemorySettings(size=50, gap=2, lag_rule="published"))
    for first in (0, 6):
        memory.add_episode(0, episode(first), torch.arange(6) == 5)
    memory.add_episode(0, episode(-1), torch.zeros(6, dtype=torch.bool))
    index = torch.arange(8)[None]
    ((positive, lag, _),) = memory.triples([0], index, torch.zeros_like(index))
    assert positive.flatten().tolist() == [2, 3, 4, 5, 8, 9, 10, 11]
    assert lag.flatten().tolist() == [0, 1, 2, 3, 6, 7, 0, 1]


def test_embeddings_are_stored_in_half_precision() -> None:
    memory = SuccessMemory(1, 1, MemorySettings(size=10, gap=1))
    memory.add_episode(0, torch.full((3, 1), 1 + 2**-10), torch.tensor([False, False, True]))
    assert memory.positive.dtype == torch.float16 and memory.positive[0, 0, 0] == 1 + 2**-10


# -- successful episodes


def test_an_agent_without_a_success_in_the_buffer_keeps_numbers_and_generator() -> None:
    successful = SuccessfulEpisodes(1, capacity=20, episode_steps=10)
    for success in (True, False, False, False):
        successful.add(torch.tensor([success]))
    number, (generator,) = torch.full((1, 8), -1), generators(1)
    state = generator.get_state()
    successful.replace(number, 4, oldest=20, generators=[generator])
    assert (number == -1).all() and torch.equal(generator.get_state(), state)


# -- settings


def test_defaults_have_the_published_sizes() -> None:
    memory, replay = MemorySettings(), ReplaySettings()
    assert (memory.size, memory.gap) == (20_000, 10)
    assert (replay.size, replay.batch_size, replay.success_share) == (500_000, 256, 0.0)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (MemorySettings, {"gap": 0}, "data.memory.gap must be at least 1, not 0"),
        (MemorySettings, {"size": 0}, "data.memory.size must be at least 1, not 0"),
        (ReplaySettings, {"size": 0}, "data.replay.size must be at least 1, not 0"),
        (ReplaySettings, {"batch_size": 0}, "data.replay.batch_size must be at least 1, not 0"),
        (ReplaySettings, {"success_share": 1.0}, "data.replay.success_share must be at least 0 and below 1, not 1.0"),
    ],
)
def test_values_out_of_range_are_refused(settings: Any, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=f"^{message}$"):
        settings(**arguments)
