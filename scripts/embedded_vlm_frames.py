"""The frames that the embedded vision-language model is trained on: rendered once, then read from a cache."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded_vlm_captions import NUM_STAGES, find_scale, stages
from torch import Tensor

from furl_lightning.envs.episodes import Manner, record
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import TASK_SETS

TRAINING_TASKS = TASK_SETS["mt50"][10:]
"""The tasks outside MT10; of MT10 no frame is ever trained on."""
FIRST_SEED = 10_000
"""Of the training episodes; the seeds below it are for measuring."""
SIZE = 128
"""Height and width of the frames in the cache; the model sees the centre of them."""
PLAN: tuple[tuple[Manner, int, int], ...] = (
    ("expert", 9, 3),
    ("noisy", 5, 4),
    ("interrupted", 4, 4),
    ("halted", 1, 8),
    ("random", 2, 8),
)
"""Episodes of each training task: manner, how many, environment steps between frames."""


def make_data(folder: Path, processes: int) -> None:
    """Render the episodes of every training task into ``folder``, one file for each; existing files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [(task, folder / f"{task}.npz") for task in missing_tasks(folder)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for count, task in enumerate(pool.imap_unordered(_make_task, files), 1):
            print(f"data {count}/{len(files)}: {task}", flush=True)


def missing_tasks(folder: Path) -> list[str]:
    """Training tasks that ``folder`` has no episodes of."""
    return [task for task in TRAINING_TASKS if not (folder / f"{task}.npz").exists()]


def _make_task(file: tuple[str, Path]) -> str:
    torch.set_num_threads(1)
    task, path = file
    columns: dict[str, list[np.ndarray]] = {}
    seed = FIRST_SEED
    for manner, count, every in PLAN:
        for _ in range(count):
            settings = SimulatorSettings("fixed" if seed % 2 else "random")
            episode = record(task, seed, settings, manner, every, SIZE)
            length = len(episode.frames)
            extra = {"episode": np.full(length, seed - FIRST_SEED), "expert": np.full(length, manner == "expert")}
            for name, values in {**vars(episode), **extra}.items():
                columns.setdefault(name, []).append(values)
            seed += 1
    temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
    arrays: dict[str, Any] = {name: np.concatenate(values) for name, values in columns.items()}
    np.savez(temporary, **arrays)
    temporary.rename(path)
    return task


@dataclass
class Frames:
    """All training frames, F of them, and the simulator's state that their captions come from."""

    pixels: np.ndarray  # uint8 [F, size, size, 3]
    task: np.ndarray  # int64 [F], index into TRAINING_TASKS
    stage: np.ndarray  # int64 [F]
    state: Tensor  # float32 [F, 11], standardised: hand, object, goal, opening, share of the way
    pairs: list[tuple[int, int]]  # first frame and first success of the experts' episodes
    by_stage: list[list[np.ndarray]]  # of each task, of each of its stages: the frames


def load_frames(folder: Path) -> Frames:
    """Read the files that :func:`make_data` wrote."""
    pixels, tasks, all_stages, states = [], [], [], []
    pairs: list[tuple[int, int]] = []
    by_stage: list[list[np.ndarray]] = []
    offset = 0
    for index, task in enumerate(TRAINING_TASKS):
        with np.load(folder / f"{task}.npz") as file:
            column = {name: file[name] for name in file.files}
        away = np.linalg.norm(column["hand"] - column["object"], axis=1)
        episodes = [np.flatnonzero(column["episode"] == number) for number in np.unique(column["episode"])]
        firsts = [
            (int(rows[0]), int(rows[column["success"][rows].argmax()]))
            for rows in episodes
            if column["expert"][rows[0]] and column["success"][rows].any()
        ]
        expert = column["expert"].astype(bool)
        scale = find_scale(away[expert], column["to_target"], np.array([last for _, last in firsts]))
        stage_and_share = [stages(scale, away[r], column["to_target"][r], column["success"][r]) for r in episodes]
        stage, share = (np.concatenate(columns) for columns in zip(*stage_and_share, strict=True))
        by_stage.append([offset + np.flatnonzero(stage == s) for s in range(NUM_STAGES) if (stage == s).any()])
        pairs += [(offset + first, offset + last) for first, last in firsts]
        places = [column["hand"], column["object"], column["goal"]]
        states.append(np.column_stack([*places, column["opening"], share]).astype(np.float32))
        pixels.append(column["frames"])
        tasks.append(np.full(len(stage), index))
        all_stages.append(stage)
        offset += len(stage)
    state = torch.from_numpy(np.concatenate(states))
    state = (state - state.mean(0)) / state.std(0)
    return Frames(np.concatenate(pixels), np.concatenate(tasks), np.concatenate(all_stages), state, pairs, by_stage)
