"""The success memory: frames of success and of failure, two rings of embeddings for each agent.

FuRL (arXiv 2406.00645), section 4.1. Filled at the end of each episode:

- an episode without success adds all its frames to the negatives;
- an episode with its first success at frame f adds frames 0..f-1 to the positives, then frames
  f, f+1, ... for as long as they are successes; the frames after that are dropped.

A positive may be drawn if it stands at least ``gap`` frames into its episode and the frame ``gap``
places earlier in the ring, its lag, has not been overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from furl_lightning.utils.settings import AtLeast, Settings

LagRule = Literal["ring", "published"]


@dataclass(frozen=True)
class MemorySettings(Settings, option="data.memory"):
    """Settings of the success memory."""

    size: Annotated[int, AtLeast(1)] = 20_000
    """Frames in each ring, for each agent."""
    gap: Annotated[int, AtLeast(1)] = 10
    """Frames between a positive and its lag."""
    lag_rule: LagRule = "ring"
    """ring: the lag is gap places back in the ring; published: the authors' faulty place."""


class SuccessMemory:
    """Rings of positives and negatives, for each of A agents.

    The ``published`` lag rule is the authors' code: the lag's place wraps at the number of *drawable*
    positives instead of the ring's size, and the list of drawable places is itself a ring, which keeps
    places after they have been overwritten. Some lags are therefore frames of other episodes.

    Args:
        num_agents: A; 0 where a method needs no memory.
        width: D, of the embeddings; 0 counts frames without storing them.
        settings: size of the rings, and which frame is a positive's lag.
        dtype: of the embeddings in the rings.
        device: of the rings.
    """

    def __init__(
        self,
        num_agents: int,
        width: int,
        settings: MemorySettings = MemorySettings(),
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity, self.gap, self.lag_rule = settings.size, settings.gap, settings.lag_rule
        self.width = width
        self.positive = torch.zeros(num_agents, self.capacity, width, dtype=dtype, device=device)
        self.negative = torch.zeros(num_agents, self.capacity, width, dtype=dtype, device=device)
        self.positives_written = torch.zeros(num_agents, dtype=torch.int64)
        self.negatives_written = torch.zeros(num_agents, dtype=torch.int64)
        self.frame = torch.zeros(num_agents, self.capacity, dtype=torch.int32)
        """A positive's index in its episode."""
        self.valid = torch.zeros(num_agents, self.capacity, dtype=torch.int32)
        """Places of the positives that may be drawn: the first ``valid_size`` entries."""
        self.valid_written = torch.zeros(num_agents, dtype=torch.int64)

    @property
    def positives(self) -> Tensor:
        """Positives in the ring, int64 [A]."""
        return self.positives_written.clamp(max=self.capacity)

    @property
    def negatives(self) -> Tensor:
        """Negatives in the ring, int64 [A]."""
        return self.negatives_written.clamp(max=self.capacity)

    @property
    def valid_size(self) -> Tensor:
        """Positives that may be drawn, int64 [A]."""
        return self.valid_written.clamp(max=self.capacity)

    @property
    def drawable(self) -> Tensor:
        """Agents for which a triple can be drawn, bool [A]."""
        return (self.valid_size > 0) & (self.negatives_written > 0)

    def add_episode(self, agent: int, embedding: Tensor, success: Tensor) -> None:
        """Add one episode of one agent.

        Args:
            agent: its row.
            embedding: of each frame, [T, D].
            success: whether each frame is one, bool [T].

        Raises:
            ValueError: embeddings of another length or width.
        """
        if embedding.shape != (len(success), self.width):
            raise ValueError(
                f"an episode's embeddings must be [{len(success)}, {self.width}], not {list(embedding.shape)}"
            )
        if not success.any():
            self._write(self.negative[agent], self.negatives_written, agent, embedding)
            return
        first_success = int(success.int().argmax())
        length = first_success + int(success[first_success:].int().cumprod(0).sum())
        places = self._write(self.positive[agent], self.positives_written, agent, embedding[:length])
        frame = torch.arange(length)
        self.frame[agent, places] = frame.int()
        if self.lag_rule == "published":
            self._append_valid(agent, places[frame >= self.gap])
        else:
            self._rebuild_valid(agent)

    def _write(self, ring: Tensor, written: Tensor, agent: int, embedding: Tensor) -> Tensor:
        """Append to one agent's ring [capacity, D]; returns the frames' places."""
        places = (written[agent] + torch.arange(len(embedding))) % self.capacity
        ring[places.to(ring.device)] = embedding.to(ring)
        written[agent] += len(embedding)
        return places

    def _append_valid(self, agent: int, places: Tensor) -> None:
        slots = (self.valid_written[agent] + torch.arange(len(places))) % self.capacity
        self.valid[agent, slots] = places.int()
        self.valid_written[agent] += len(places)

    def _rebuild_valid(self, agent: int) -> None:
        written, size = self.positives_written[agent], int(self.positives[agent])
        place = torch.arange(size)
        number = written - 1 - (written - 1 - place) % self.capacity  # of the frame there, since the run began
        lag_is_in_ring = number - self.gap >= written - size
        places = place[(self.frame[agent, :size] >= self.gap) & lag_is_in_ring]
        self.valid[agent, : len(places)] = places.int()
        self.valid_written[agent] = len(places)

    def draw(self, agents: Sequence[int], batch_size: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Triples drawn uniformly with replacement, float32 [K, 3, B, D]; see :meth:`triples`.

        Args:
            agents: K agents that are ``drawable``.
            batch_size: B.
            generators: of all A agents.
        """
        valid_index, negative_index = [], []
        for agent in agents:
            generator = generators[agent]
            valid_index.append(torch.randint(int(self.valid_size[agent]), (batch_size,), generator=generator))
            negative_index.append(torch.randint(int(self.negatives[agent]), (batch_size,), generator=generator))
        return self.triples(agents, torch.stack(valid_index), torch.stack(negative_index))

    def triples(
        self, agents: Sequence[int], valid_index: Int64[Tensor, "K B"], negative_index: Int64[Tensor, "K B"]
    ) -> Float32[Tensor, "K 3 B D"]:
        """Gather triples of K agents.

        Args:
            agents: the K agents.
            valid_index: entries of the list of drawable positives, int64 [K, B].
            negative_index: places in the ring of negatives, int64 [K, B].

        Returns:
            Embeddings, float32 [K, 3, B, D]: positives, their lags (the frames ``gap`` steps before, in the same
            episode), and negatives, frames of episodes without success.
        """
        agent = torch.as_tensor(agents)[:, None]
        place = self.valid[agent, valid_index].long()
        wrap = self.capacity if self.lag_rule == "ring" else self.valid_size[agent]
        lag = (place - self.gap) % wrap
        shape = (len(agents), 3, place.shape[1], self.width)
        triples = torch.empty(shape, dtype=torch.float32, device=self.positive.device)
        for i, (ring, index) in enumerate(
            ((self.positive, place), (self.positive, lag), (self.negative, negative_index))
        ):
            row = (agent * self.capacity + index).flatten().to(ring.device)
            triples[:, i] = ring.flatten(0, 1).index_select(0, row).unflatten(0, index.shape)
        return triples

    # -- checkpoints: counters go into the checkpoint, embeddings into the journal's files

    def counters(self) -> dict[str, Tensor]:
        """All but the embeddings, in a few bytes a frame."""
        return {
            "positives_written": self.positives_written,
            "negatives_written": self.negatives_written,
            "frame": self.frame,
            "valid": self.valid,
            "valid_written": self.valid_written,
        }

    def load_counters(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`counters` returned."""
        for name, value in state.items():
            getattr(self, name).copy_(value)

    @property
    def written(self) -> Tensor:
        """Positives and negatives written since the run began, int64 [2, A]."""
        return torch.stack([self.positives_written, self.negatives_written])

    def frames(self, start: Tensor, end: Tensor) -> dict[str, Tensor]:
        """Embeddings [N, D] written between two values of :attr:`written`, the last ``capacity`` of each ring.

        They are views of rings on the CPU. Each has a name of kind, agent and part: a ring's frames are
        one part, or two where they wrap, one before and one after the ring's end.
        """
        return {name: rows.cpu() for name, rows in self._parts(start, end)}

    def restore(self, frames: dict[str, Tensor], start: Tensor, end: Tensor) -> None:
        """Write back what :meth:`frames` returned for the same two counts; the counters stay as they are."""
        for name, rows in self._parts(start, end):
            rows.copy_(frames[name])

    def _parts(self, start: Tensor, end: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Names and views of the parts of the rings that were written between two counts [2, A]."""
        rings = (("positive", self.positive), ("negative", self.negative))
        for (kind, ring), starts, ends in zip(rings, start.tolist(), end.tolist(), strict=True):
            for agent, (first, last) in enumerate(zip(starts, ends, strict=True)):
                count = min(last - first, self.capacity)
                place = (last - count) % self.capacity
                before_end = min(count, self.capacity - place)
                if before_end:
                    yield f"{kind}/{agent}/0", ring[agent, place : place + before_end]
                if count > before_end:
                    yield f"{kind}/{agent}/1", ring[agent, : count - before_end]
