"""The success memory: what success and failure look like, two rings of frame embeddings an agent.

FuRL (arXiv 2406.00645), section 4.1. Filled at the end of each episode:

- an episode without success gives all its frames to the negatives;
- an episode with its first success at frame f gives frames 0..f-1 to the positives, then frames
  f, f+1, ... while they are successes; what follows the first that is not goes nowhere.

A positive may be drawn if it stands at least ``gap`` frames into its episode and the frame ``gap``
places earlier in the ring, its lag, has not been overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

LagRule = Literal["ring", "published"]


class SuccessMemory:
    """Rings of positives and negatives, for each of A agents, in half precision.

    Args:
        num_agents: A; none where a method needs no memory.
        capacity: frames in each ring.
        width: D, of the embeddings; 0 counts frames without holding them.
        gap: frames between a positive and its lag.
        lag_rule: ``ring`` takes the lag ``gap`` places back in the ring. ``published`` is the
            authors' code: the place wraps at the number of *valid* entries, and valid places are
            themselves kept in a ring that never drops a place that was overwritten; so some lags
            are frames of other episodes.
    """

    def __init__(
        self,
        num_agents: int,
        capacity: int,
        width: int,
        gap: int = 10,
        lag_rule: LagRule = "ring",
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity, self.width, self.gap, self.lag_rule = capacity, width, gap, lag_rule
        self.positive = torch.zeros(num_agents, capacity, width, dtype=dtype, device=device)
        self.negative = torch.zeros(num_agents, capacity, width, dtype=dtype, device=device)
        self.positives_written = torch.zeros(num_agents, dtype=torch.int64)
        self.negatives_written = torch.zeros(num_agents, dtype=torch.int64)
        self.frame = torch.zeros(num_agents, capacity, dtype=torch.int32)
        """A positive's index in its episode."""
        self.valid = torch.zeros(num_agents, capacity, dtype=torch.int32)
        """Places of the positives that may be drawn; the first ``valid_size`` entries count."""
        self.valid_written = torch.zeros(num_agents, dtype=torch.int64)

    @property
    def positives(self) -> Tensor:
        """Positives held, int64 [A]."""
        return self.positives_written.clamp(max=self.capacity)

    @property
    def negatives(self) -> Tensor:
        """Negatives held, int64 [A]."""
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
        """Take in one episode of one agent: embeddings [T, D] and success, bool [T]."""
        if embedding.shape != (len(success), self.positive.shape[-1]):
            raise ValueError(
                f"an episode's embeddings must be [{len(success)}, {self.positive.shape[-1]}], "
                f"not {list(embedding.shape)}"
            )
        if not success.any():
            self._write(self.negative[agent], self.negatives_written, agent, embedding)
            return
        first = int(success.int().argmax())
        lasting = int(success[first:].int().cumprod(0).sum())
        taken = first + lasting
        places = self._write(self.positive[agent], self.positives_written, agent, embedding[:taken])
        frame = torch.arange(taken)
        self.frame[agent, places] = frame.int()
        if self.lag_rule == "published":
            self._append_valid(agent, places[frame >= self.gap])
        else:
            self._rebuild_valid(agent)

    def _write(self, ring: Tensor, written: Tensor, agent: int, embedding: Tensor) -> Tensor:
        places = (written[agent] + torch.arange(len(embedding))) % self.capacity
        ring[places.to(ring.device)] = embedding.to(ring)
        written[agent] += len(embedding)
        return places

    def _append_valid(self, agent: int, places: Tensor) -> None:
        slots = (self.valid_written[agent] + torch.arange(len(places))) % self.capacity
        self.valid[agent, slots] = places.int()
        self.valid_written[agent] += len(places)

    def _rebuild_valid(self, agent: int) -> None:
        written, held = self.positives_written[agent], int(self.positives[agent])
        place = torch.arange(held)
        number = written - 1 - (written - 1 - place) % self.capacity  # running number of the frame there
        lag_is_held = number - self.gap >= written - held
        places = place[(self.frame[agent, :held] >= self.gap) & lag_is_held]
        self.valid[agent, : len(places)] = places.int()
        self.valid_written[agent] = len(places)

    def draw(self, agents: Sequence[int], batch_size: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Uniform triples for K agents that are drawable, [K, 3, B, D] in float32; see :meth:`triples`.

        ``generators`` are those of all A agents.
        """
        valid_index, negative_index = [], []
        for agent in agents:
            generator = generators[agent]
            valid_index.append(torch.randint(int(self.valid_size[agent]), (batch_size,), generator=generator))
            negative_index.append(torch.randint(int(self.negatives[agent]), (batch_size,), generator=generator))
        return self.triples(agents, torch.stack(valid_index), torch.stack(negative_index))

    def triples(self, agents: Sequence[int], valid_index: Tensor, negative_index: Tensor) -> Tensor:
        """Triples for draws given as places in the valid list and in the negatives, [K, B].

        Returns:
            Embeddings [K, 3, B, D]: positives, their lags (the frames `gap` steps before, in the same episode), and
            negatives, frames of episodes without success.
        """
        agent = torch.as_tensor(agents)[:, None]
        place = self.valid[agent, valid_index].long()
        wrap = self.capacity if self.lag_rule == "ring" else self.valid_size[agent]
        lag = (place - self.gap) % wrap
        shape = (len(agents), 3, place.shape[1], self.positive.shape[-1])
        drawn = torch.empty(shape, dtype=torch.float32, device=self.positive.device)
        for number, (ring, at) in enumerate(
            ((self.positive, place), (self.positive, lag), (self.negative, negative_index))
        ):
            flat = (agent * self.capacity + at).flatten().to(ring.device)
            drawn[:, number] = ring.flatten(0, 1).index_select(0, flat).unflatten(0, at.shape)
        return drawn

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
        """Put back what :meth:`counters` gave."""
        for name, value in state.items():
            getattr(self, name).copy_(value)

    def written_since(self, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Embeddings written since the counts [A] and still held: [N, D] by ring, agent and part, oldest part first.

        Views of the rings, which is why there is a part before and one after a ring's end.
        """
        rows: dict[str, Tensor] = {}
        for kind, ring, start, end in (
            ("positive", self.positive, positives, self.positives_written),
            ("negative", self.negative, negatives, self.negatives_written),
        ):
            for agent, part, places in self._parts(start, end):
                rows[f"{kind}/{agent}/{part}"] = ring[agent, places].cpu()
        return rows

    def restore(
        self, written: dict[str, Tensor], positives: tuple[Tensor, Tensor], negatives: tuple[Tensor, Tensor]
    ) -> None:
        """Write back what :meth:`written_since` gave between two counts [A]; not the counters."""
        for kind, ring, (start, end) in (
            ("positive", self.positive, positives),
            ("negative", self.negative, negatives),
        ):
            for agent, part, places in self._parts(start, end):
                ring[agent, places] = written[f"{kind}/{agent}/{part}"].to(ring)

    def _parts(self, start: Tensor, end: Tensor) -> Iterator[tuple[int, int, slice]]:
        """Agent, number and places of each part of a ring that was written between two counts [A] and is held."""
        for agent, (first, last) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
            first = max(first, last - self.capacity)
            place = first % self.capacity
            until = min(place + last - first, self.capacity)
            if until > place:
                yield agent, 0, slice(place, until)
            if last - first > until - place:
                yield agent, 1, slice(0, last - first - (until - place))
