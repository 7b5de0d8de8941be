"""A run that is stopped and resumed is bit-equal to one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tensordict import TensorDict

from furl_lightning.method.success_memory import MemorySettings, SuccessMemory
from furl_lightning.replay.buffer import FIELDS, ReplayBuffer
from furl_lightning.replay.journal import Journal, verify

from .conftest import Run, assert_same

SETTINGS: dict[str, object] = {
    "data__env_steps": 70,
    "data__collection__start_steps": 20,
    "data__replay__size": 50,
    "data__memory__size": 50,
    "data__checkpoints__every": 20,
    "data__checkpoints__keep": 9,
    "model__log_every": 10,
}
IGNORE = ("journal", "metrics")  # the rings may be cut into other files; what these hold is compared, and metrics are


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        # Seed 5 succeeds among its first, random steps: the relay ends at 50. The replay ring wraps there too.
        ({"data__seeds": "[5]", "model__relay__threshold": 1}, (20, 60)),
        ({"data__env__goal": "random", "data__collection__num_workers": 1, "data__replay__storage": "disk"}, (40,)),
        (
            {"data__collection__num_workers": 2, "data__seeds": "[0, 1]", "data__collection__steps_per_iteration": 5},
            (60,),
        ),
        (
            {"data__collection__num_workers": 2, "data__seeds": "[0, 1]", "data__collection__overlap": "true"},
            (20, 60),
        ),
        (
            {
                "model__vlm": "null",
                "model__reward__source": "task",
                "model__relay__enabled": "false",
                "model__sac__critic_layer_norm": "true",
                "model__updates_per_step": 2,
            },
            (60,),
        ),
        (
            {
                "model__reward__source": "cosine",
                "model__relay__counts": "successes",
                "data__replay__success_share": 0.5,
                "data__seeds": "[5]",  # has a success in its first episode
            },
            (60,),
        ),
    ],
    ids=[
        "before-and-after-the-relay",
        "random-goals-worker-and-disk",
        "population-and-workers",
        "overlapped",
        "sac-alone",
        "zero-shot-and-successes-drawn",
    ],
)
def test_resumed_run_is_bit_equal(run: Run, tmp_path: Path, settings: dict[str, Any], stops: tuple[int, ...]) -> None:
    """From checkpoints in the middle of an episode, before and after the ring has wrapped, in another folder."""
    settings = {**SETTINGS, **settings}
    straight = run("straight", **settings)
    if "model__relay__threshold" in settings:
        assert not straight["relay"]["active"].any()
        assert straight["FuRLDataModule"]["memory"]["positives_written"].all()
    for stop in stops:
        checkpoint = tmp_path / "straight" / "checkpoints" / f"step-{stop:09d}.ckpt"
        resumed = run(f"from-{stop}", "--ckpt_path", str(checkpoint), **settings)
        assert_same(straight, resumed, ignore=IGNORE)
        assert_same(rings(straight, tmp_path / "straight"), rings(resumed, tmp_path / f"from-{stop}"))
        assert [line for line in straight["metrics"] if _step(line) > stop] == resumed["metrics"][1:]


def test_a_run_resumes_in_its_moved_folder(run: Run, tmp_path: Path) -> None:
    """At an episode's end with random goals: longer, with other evaluation, and with a torn row in metrics.csv."""
    settings = {**SETTINGS, "data__env__goal": "random", "data__evaluation__episodes": 1}
    straight = run("straight", **settings)
    run("stopped", **{**settings, "data__env_steps": 50})
    with (tmp_path / "stopped" / "metrics.csv").open("a") as file:
        file.write("60,sac/q,1.0\n70,sac/q/vlm_ag")
    (tmp_path / "stopped").rename(tmp_path / "moved")
    resumed = run("moved", "--ckpt_path", "last", **{**settings, "data__replay__storage": "disk"})
    assert_same(straight, resumed, ignore=IGNORE)
    assert_same(rings(straight, tmp_path / "straight"), rings(resumed, tmp_path / "moved"))
    # The stopped run also evaluated at its end.
    assert straight["metrics"] == [line for line in resumed["metrics"] if not line.startswith("50,eval/")]
    assert not (tmp_path / "moved" / "replay").exists()
    assert (tmp_path / "moved" / "config-2.yaml").exists()


@pytest.mark.parametrize("bytes_per_file", [1, 3_000, 2**26])
@pytest.mark.parametrize("capacity", [7, 20, 100])
def test_the_journal_gives_back_what_the_rings_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: int, bytes_per_file: int
) -> None:
    """Whatever was written between saves, with rings that wrap within and between them; old files become free."""
    monkeypatch.setattr("furl_lightning.replay.journal.BYTES_PER_FILE", bytes_per_file)
    generator = torch.Generator().manual_seed(capacity)
    num, width = 3, 4
    journal = Journal(tmp_path)
    replay, memory = ReplayBuffer(capacity), SuccessMemory(num, width, MemorySettings(capacity, gap=2))
    frames_saved = memory.written
    for _ in range(12):
        for _ in range(int(torch.randint(0, 4, (), generator=generator))):
            length = int(torch.randint(1, min(capacity, 12), (), generator=generator))
            replay.extend(_steps(length, num, width, generator))
            for agent in range(num):
                success = torch.rand(length, generator=generator) < 0.1
                memory.add_episode(agent, replay.last(length, "embedding")[:, agent], success)
        old = [entry["file"] for entry in journal.entries]
        journal.save(replay, memory)
        verify(journal.entries, tmp_path)
        for entry in journal.entries:
            since, until = torch.tensor(entry["frames"])
            assert entry["file"] in old or bool((since >= frames_saved).all())
            assert (until - since).max() <= max(1, bytes_per_file // (2 * num * width * 2))
            assert (tmp_path / entry["file"]).stat().st_size < max(5_000, 3 * bytes_per_file)
        frames_saved = memory.written
        again = ReplayBuffer(capacity), SuccessMemory(num, width, MemorySettings(capacity, gap=2))
        again[1].load_counters(memory.counters())
        Journal(None).restore(journal.entries, tmp_path, *again)
        if len(replay):
            assert_same(_contents(replay, memory), _contents(*again))
    written = sum(entry["end"] - entry["start"] for entry in journal.entries)
    assert written < replay.steps_written or capacity == 100


def test_a_replay_buffer_on_disk_takes_its_room_at_once(tmp_path: Path) -> None:
    """A disk that fills up later would kill the process at a write; too small a one is refused."""
    steps = _steps(4, 1, 8, torch.Generator())
    folder = tmp_path / "replay"
    replay = ReplayBuffer(10_000, folder=folder)
    replay.extend(steps)
    files = list(folder.glob("*.memmap"))
    assert len(files) == len(FIELDS) and all(f.stat().st_blocks * 512 >= f.stat().st_size for f in files)
    assert_same({name: replay.last(4, name).clone() for name in FIELDS}, {name: steps[name] for name in FIELDS})
    with pytest.raises(OSError, match="the replay buffer needs"):
        ReplayBuffer(10**12, folder=folder).extend(steps)
    ReplayBuffer(500, folder=folder).close()
    assert not folder.exists()


def rings(checkpoint: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """What the files that a checkpoint names put into the rings."""
    state = checkpoint["FuRLDataModule"]
    num, size = len(state["memory"]["positives_written"]), int(str(SETTINGS["data__memory__size"]))
    with safe_open(folder / "checkpoints" / state["journal"][0]["file"], "pt") as first:
        fields = [name for name in FIELDS if name in first.keys()]  # noqa: SIM118
    replay = ReplayBuffer(int(str(SETTINGS["data__replay__size"])), fields=fields)
    memory = SuccessMemory(num, 16, MemorySettings(size))
    memory.load_counters(state["memory"])
    Journal(None).restore(state["journal"], folder / "checkpoints", replay, memory)
    return _contents(replay, memory)


def _contents(replay: ReplayBuffer, memory: SuccessMemory) -> dict[str, torch.Tensor]:
    steps = {name: values.clone() for name, values in replay.steps(replay.oldest, replay.steps_written).items()}
    return {**steps, "positive": memory.positive, "negative": memory.negative}


def _steps(length: int, num: int, width: int, generator: torch.Generator) -> TensorDict:
    shapes = {"observation": (39,), "action": (4,), "next_observation": (39,), "embedding": (width,)}
    steps = {name: torch.rand(length, num, *shapes.get(name, ()), generator=generator) for name in FIELDS}
    steps["embedding"] = steps["embedding"].half()
    steps["terminated"] = steps["terminated"] < 0.5
    return TensorDict(steps, [length, num])


def _step(line: str) -> int:
    first = line.split(",")[0]
    return int(first) if first.isdecimal() else -1
