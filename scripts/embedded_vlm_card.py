"""Measure the embedded model again and print the figures of its card: ``python scripts/embedded_vlm_card.py``.

All episodes are rendered anew from seeds that were never trained on; with ``--write`` the figures
replace those in the card. About three minutes on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from embedded_vlm_captions import NUM_STAGES, find_scale, stage_captions, stages
from torch import Tensor

from furl_lightning.analysis.probe import Measured
from furl_lightning.envs.episodes import Episode, record
from furl_lightning.envs.simulator import GoalMode
from furl_lightning.tasks import INSTRUCTIONS, TASK_SETS
from furl_lightning.vlm import VLM, Embedded
from furl_lightning.vlm.embedded import FOLDER

MT10 = TASK_SETS["mt10"]
TRAINING_TASKS = TASK_SETS["mt50"][10:]
SEEDS = (0, 1)
"""Of the episodes measured; training has those from 10,000 on."""
BEGIN, END = "<!-- figures: scripts/embedded_vlm_card.py --write -->", "<!-- end of figures -->"

Wanted = tuple[str, int, GoalMode]


def recall(likeness: Tensor, best: int) -> float:
    """Share of rows of [N, N] whose diagonal entry is among the ``best`` highest."""
    above = (likeness > likeness.diagonal()[:, None]).sum(1)
    return float((above < best).float().mean())


def retrieval(vlm: VLM, tasks: Sequence[str], measured: Sequence[Measured]) -> list[str]:
    """Rows of the table: instructions and last frames of the same tasks, each way, mean over seeds."""
    text = F.normalize(vlm.encode_texts([INSTRUCTIONS[task] for task in tasks]), dim=-1)
    of_seed = []
    for number in range(len(SEEDS)):
        image = torch.stack([[m for m in measured if m.task == task][number].last_success for task in tasks])
        of_seed.append(text @ F.normalize(image, dim=-1).T)
    rows = []
    for direction, likenesses in (
        ("frame, given the instruction", of_seed),
        ("instruction, given the frame", [likeness.T for likeness in of_seed]),
    ):
        for best in (1, 5) if len(tasks) > 10 else (1, 3):
            found = np.mean([recall(likeness, best) for likeness in likenesses])
            chance = best / len(tasks)
            rows.append(f"| {direction}, among {len(tasks)} tasks: recall@{best} | {found:.2f} | {chance:.3f} |")
    return rows


def stage_accuracy(vlm: VLM, tasks: Sequence[str], measured: Sequence[Measured]) -> tuple[float, float]:
    """Stage captions matched to frames: the mean recall over stages, and how far off, in stages."""
    hits: list[list[float]] = [[] for _ in range(NUM_STAGES)]
    off = []
    for task in tasks:
        text = F.normalize(vlm.encode_texts(stage_captions(task)), dim=-1)
        mine = [m for m in measured if m.task == task and m.success is not None]
        away = [np.linalg.norm(m.episode.hand - m.episode.object, axis=1) for m in mine]
        if not mine:
            continue
        lengths = np.cumsum([0, *(len(m.cosine) for m in mine[:-1])])
        firsts = np.array([start + (m.success or 0) for start, m in zip(lengths, mine, strict=True)])
        scale = find_scale(np.concatenate(away), np.concatenate([m.episode.to_target for m in mine]), firsts)
        for m, distance in zip(mine, away, strict=True):
            truth, _ = stages(scale, distance, m.episode.to_target, m.episode.success)
            guess = (F.normalize(m.embedding, dim=-1) @ text.T).argmax(1).numpy()
            for stage, guessed in zip(truth, guess, strict=True):
                hits[stage].append(float(stage == guessed))
                off.append(abs(int(stage) - int(guessed)))
    return float(np.mean([np.mean(found) for found in hits if found])), float(np.mean(off))


def figures(vlm: VLM, processes: int) -> str:
    """Everything that the card says in numbers, as Markdown."""
    wanted: list[Wanted] = [(task, seed, "random") for task in TRAINING_TASKS for seed in SEEDS]
    wanted += [(task, seed, "fixed") for task in MT10 for seed in SEEDS]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        episodes = pool.map(_episode, wanted, chunksize=3)
    measured = []
    for (task, _, _), episode in zip(wanted, episodes, strict=True):
        measured.append(Measured(vlm, task, episode, vlm.encode_texts([INSTRUCTIONS[task]])))
    accuracy, off = stage_accuracy(vlm, TRAINING_TASKS, measured)
    training = [m.correlation() for m in measured if m.task in TRAINING_TASKS]
    lines = [
        f"Model {vlm.fingerprint[:16]}. Experts' episodes of seeds {', '.join(map(str, SEEDS))}, never trained on.",
        "",
        "| the forty training tasks, random goals | measured | chance |",
        "|---|---|---|",
        *retrieval(vlm, TRAINING_TASKS, measured),
        f"| one of six stage captions, given a frame: mean recall | {accuracy:.2f} | {1 / NUM_STAGES:.2f} |",
        f"| the same: mean distance from the true stage, in stages | {off:.2f} | |",
        f"| rank correlation of reward and time, mean over episodes | {np.mean(training):.2f} | 0.00 |",
        f"| the same: share of episodes above 0.5 | {np.mean(np.array(training) > 0.5):.2f} | |",
        f"| L2 distance of first frame and first success, median | {_median_way(measured, TRAINING_TASKS):.2f} | |",
        "",
        "| the ten MT10 tasks, never seen, fixed goals | measured | chance |",
        "|---|---|---|",
        *retrieval(vlm, MT10, measured),
        f"| L2 distance of first frame and first success, median | {_median_way(measured, MT10):.2f} | |",
        "",
        "| MT10 task | rank correlation of reward and time, by seed | mean | cosine at the start | at first success |",
        "|---|---|---|---|---|",
    ]
    for task in MT10:
        mine = [m for m in measured if m.task == task]
        each = [m.correlation() for m in mine]
        start = np.mean([m.cosine[0] for m in mine])
        success = [m.cosine[m.success] for m in mine if m.success is not None]
        lines.append(
            f"| {task} | {', '.join(f'{value:.2f}' for value in each)} | {np.mean(each):.2f} | {start:.2f} | "
            f"{np.mean(success) if success else float('nan'):.2f} |"
        )
    overall = np.mean([m.correlation() for m in measured if m.task in MT10])
    lines.append(f"| all | | {overall:.2f} | | |")
    return "\n".join(lines)


def _episode(wanted: Wanted) -> Episode:
    torch.set_num_threads(1)
    task, seed, goal = wanted
    return record(task, seed, goal, "expert", every=2)


def _median_way(measured: Sequence[Measured], tasks: Sequence[str]) -> float:
    return float(np.nanmedian([m.way() for m in measured if m.task in tasks]))


def write(card: Path, text: str) -> None:
    """Put the figures between the card's two marks.

    Raises:
        ValueError: the card has not both marks.
    """
    before, begin, rest = card.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{card} has no place for the figures; it needs the lines '{BEGIN}' and '{END}'")
    card.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Print the figures, and write them into the card if asked to."""
    parser = argparse.ArgumentParser(description="Measure the embedded vision-language model.")
    parser.add_argument("--write", action="store_true", help="replace the figures in the model's card")
    parser.add_argument("--processes", type=int, default=2, help="for rendering")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = figures(Embedded(), args.processes)
    print(text)
    if args.write:
        write(FOLDER / "README.md", text)


if __name__ == "__main__":
    main()
