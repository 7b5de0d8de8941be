"""Measure the embedded model again and print the figures of its card: ``python scripts/embedded_vlm_card.py``.

The episodes are rendered from seeds outside the training data; with ``--write`` the figures replace
those in the card. ``--without FOLDER`` adds the table of a model trained without some of the forty tasks, on those.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from embedded_vlm_captions import NUM_STAGES, find_scale, stage_captions, stages
from embedded_vlm_frames import TRAINING_TASKS
from torch import Tensor

from furl_lightning.analysis.goal_distance import goal_distances
from furl_lightning.analysis.probe import ScoredEpisode
from furl_lightning.analysis.tables import goal_distance_table
from furl_lightning.envs.episodes import Episode, record
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.envs.simulator import GoalMode, SimulatorSettings
from furl_lightning.tasks import INSTRUCTIONS, TASK_SETS
from furl_lightning.vlm import VLM, Embedded, EmbeddedCLIP

MT10 = TASK_SETS["mt10"]
SEEDS = (0, 1)
"""Of the experts' episodes; those of the training episodes begin at 20,000."""
DISTANCE_SEEDS = (0, 1, 2)
BEGIN, END = "<!-- figures: scripts/embedded_vlm_card.py --write -->", "<!-- end of figures -->"

EpisodeKey = tuple[str, int, GoalMode]
"""Task, seed and goal mode."""


def recall(likeness: Tensor, best: int) -> float:
    """Share of the rows of a matrix [N, N] whose diagonal entry is among the ``best`` highest."""
    above = (likeness > likeness.diagonal()[:, None]).sum(1)
    return float((above < best).float().mean())


def retrieval(vlm: VLM, tasks: Sequence[str], scored: Sequence[ScoredEpisode]) -> list[str]:
    """Rows of the table: instructions and last frames of the same tasks, each way, mean over seeds."""
    text = F.normalize(vlm.encode_texts([INSTRUCTIONS[task] for task in tasks]), dim=-1)
    of_seed = []
    for number in range(len(SEEDS)):
        image = torch.stack([[s for s in scored if s.task == task][number].last_success for task in tasks])
        of_seed.append(text @ F.normalize(image, dim=-1).T)
    rows = []
    for direction, likenesses in (
        ("frame, given the instruction", of_seed),
        ("instruction, given the frame", [likeness.T for likeness in of_seed]),
    ):
        for best in (1, 5) if len(tasks) > 10 else (1, 3):
            mean = np.mean([recall(likeness, best) for likeness in likenesses])
            chance = best / len(tasks)
            rows.append(f"| {direction}, among {len(tasks)} tasks: recall@{best} | {mean:.2f} | {chance:.3f} |")
    return rows


def stage_accuracy(vlm: VLM, tasks: Sequence[str], scored: Sequence[ScoredEpisode]) -> tuple[float, float]:
    """Stage captions matched to frames: the mean recall over stages, and the mean distance, in stages."""
    hits: list[list[float]] = [[] for _ in range(NUM_STAGES)]
    distances = []
    for task in tasks:
        text = F.normalize(vlm.encode_texts(stage_captions(task)), dim=-1)
        successful = [s for s in scored if s.task == task and s.success is not None]
        if not successful:
            continue
        away = [np.linalg.norm(s.episode.state["hand"] - s.episode.state["object"], axis=1) for s in successful]
        starts = np.cumsum([0, *(len(s.reward) for s in successful[:-1])])
        firsts = np.array([start + (s.success or 0) for start, s in zip(starts, successful, strict=True)])
        scale = find_scale(
            np.concatenate(away), np.concatenate([s.episode.state["to_target"] for s in successful]), firsts
        )
        for s, hand_to_object in zip(successful, away, strict=True):
            truth, _ = stages(scale, hand_to_object, s.episode.state["to_target"], s.episode.success)
            guesses = (F.normalize(s.embedding, dim=-1) @ text.T).argmax(1).numpy()
            for stage, guess in zip(truth, guesses, strict=True):
                hits[stage].append(float(stage == guess))
                distances.append(abs(int(stage) - int(guess)))
    return float(np.mean([np.mean(of_stage) for of_stage in hits if of_stage])), float(np.mean(distances))


def figures(vlm: VLM, processes: int) -> str:
    """All figures of the card, as Markdown."""
    keys: list[EpisodeKey] = [(task, seed, "random") for task in TRAINING_TASKS for seed in SEEDS]
    keys += [(task, seed, "fixed") for task in MT10 for seed in SEEDS]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        picture = EnvSettings().simulators(True, vlm.render, vlm.picture_size)
        episodes = pool.starmap(_episode, [(key, picture) for key in keys], chunksize=3)
    scored = []
    for (task, _, _), episode in zip(keys, episodes, strict=True):
        scored.append(ScoredEpisode.zero_shot(vlm, task, episode, vlm.encode_texts([INSTRUCTIONS[task]])))
    accuracy, distance = stage_accuracy(vlm, TRAINING_TASKS, scored)
    training = [s.correlation() for s in scored if s.task in TRAINING_TASKS]
    lines = [
        f"Model {vlm.fingerprint[:16]}. Experts' episodes of seeds {', '.join(map(str, SEEDS))}, never trained on.",
        "",
        "| the forty training tasks, random goals | measured | chance |",
        "|---|---|---|",
        *retrieval(vlm, TRAINING_TASKS, scored),
        f"| one of six stage captions, given a frame: mean recall | {accuracy:.2f} | {1 / NUM_STAGES:.2f} |",
        f"| the same: mean distance from the true stage, in stages | {distance:.2f} | |",
        f"| rank correlation of reward and time, mean over episodes | {np.mean(training):.2f} | 0.00 |",
        f"| the same: share of episodes above 0.5 | {np.mean(np.array(training) > 0.5):.2f} | |",
        f"| L2 distance of first frame and first success, median | {_median_way(scored, TRAINING_TASKS):.2f} | |",
        "",
        "| the ten MT10 tasks, never seen, fixed goals | measured | chance |",
        "|---|---|---|",
        *retrieval(vlm, MT10, scored),
        f"| L2 distance of first frame and first success, median | {_median_way(scored, MT10):.2f} | |",
        "",
        "| MT10 task | rank correlation of reward and time, by seed | mean | cosine at the start | at first success |",
        "|---|---|---|---|---|",
    ]
    for task in MT10:
        of_task = [s for s in scored if s.task == task]
        correlations = [s.correlation() for s in of_task]
        start = np.mean([s.reward[0] for s in of_task])
        success = [s.reward[s.success] for s in of_task if s.success is not None]
        by_seed = ", ".join(f"{value:.2f}" for value in correlations)
        lines.append(
            f"| {task} | {by_seed} | {np.mean(correlations):.2f} | {start:.2f} | "
            f"{np.mean(success) if success else float('nan'):.2f} |"
        )
    overall = np.mean([s.correlation() for s in scored if s.task in MT10])
    lines.append(f"| all | | {overall:.2f} | | |")
    return "\n".join(lines)


def _episode(key: EpisodeKey, picture: SimulatorSettings) -> Episode:
    torch.set_num_threads(1)
    task, seed, goal = key
    return record(task, seed, replace(picture, goal=goal), "expert", every=2)


def distances(model: VLM, without: Path | None, processes: int) -> list[str]:
    """How well distances to the goal image order episodes: before and now, and where a model has not seen the task.

    Args:
        model: the present one.
        without: the folder of one that was trained without some of the forty tasks.
        processes: that play and draw.
    """
    lines = [
        "Rank correlation of the closeness to the goal image of the same placement with Meta-World's dense reward, on "
        f"noisy experts' episodes up to the first success and on random ones; mean over seeds "
        f"{', '.join(map(str, DISTANCE_SEEDS))}."
    ]
    for goal in get_args(GoalMode):
        columns = dict(
            zip(
                ("before", "now"),
                goal_distances([EmbeddedCLIP(), model], MT10, DISTANCE_SEEDS, goal, processes),
                strict=True,
            )
        )
        lines += ["", f"MT10, never seen, {goal} goals:", "", goal_distance_table(columns).markdown()]
    if without is not None:
        left_out = json.loads((without / "data_card.json").read_text())["without"]
        other = type("Other", (Embedded,), {"FOLDER": without})()
        columns = dict(
            zip(
                ("never seen", "trained on"),
                goal_distances([other, model], left_out, DISTANCE_SEEDS, "fixed", processes),
                strict=True,
            )
        )
        lines += [
            "", "Five of the forty, fixed goals: by a model that was trained without them, and by this one:", "",
            goal_distance_table(columns).markdown(),
        ]  # fmt: skip
    return lines


def _median_way(scored: Sequence[ScoredEpisode], tasks: Sequence[str]) -> float:
    return float(np.nanmedian([s.way() for s in scored if s.task in tasks]))


def write(card: Path, text: str) -> None:
    """Put the figures between the card's two marks.

    Raises:
        ValueError: the card lacks one of them.
    """
    before, begin, rest = card.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{card} has no place for the figures; it needs the lines '{BEGIN}' and '{END}'")
    card.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Print the figures; with ``--write`` put them into the card."""
    parser = argparse.ArgumentParser(description="Measure the embedded vision-language model.")
    parser.add_argument("--write", action="store_true", help="replace the figures in the model's card")
    parser.add_argument("--without", type=Path, help="folder of a model trained without some tasks, to measure on them")
    parser.add_argument("--processes", type=int, default=2, help="for rendering")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Embedded()
    text = "\n".join([*distances(model, args.without, args.processes), "", figures(model, args.processes)])
    print(text)
    if args.write:
        write(Embedded.FOLDER / "README.md", text)


if __name__ == "__main__":
    main()
