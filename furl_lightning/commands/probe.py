"""``furl-probe``: how fuzzy is a VLM's reward on these tasks and sentences, as a table, figures and a page."""

from __future__ import annotations

import csv
import io
import math
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from furl_lightning.analysis.html_page import Page
from furl_lightning.analysis.probe import COLUMNS, Measured, figures
from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.envs.episodes import Episode, Manner, record
from furl_lightning.envs.fleet import SimulatorSettings
from furl_lightning.envs.simulator import GoalMode
from furl_lightning.tasks import INSTRUCTIONS, Agent, UnknownTask, task_names
from furl_lightning.training.trained import Trained, load
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM, Embedded
from furl_lightning.vlm.prompts import Prompt, embed_prompts, text_of

MANNERS: tuple[Manner, ...] = ("expert", "noisy", "interrupted", "halted", "random")
COLOURS = {
    "expert": "tab:blue",
    "noisy": "tab:cyan",
    "interrupted": "tab:green",
    "halted": "tab:orange",
    "random": "tab:red",
}
EVERY = 2
"""Environment steps between frames; the embedded model's card uses the same."""


def probe(argv: Sequence[str] | None = None) -> int:
    """``furl-probe``; returns the exit status."""
    return answer("furl-probe", _probe, argv)


@dataclass
class Subject:
    """What is probed: which VLM, on whose episodes, with which sentences."""

    vlm: VLM
    agents: list[Agent]
    """Their placements; with a checkpoint these are its agents."""
    instructions: Mapping[str, Prompt]
    """By task."""
    settings: SimulatorSettings
    trained: Trained | None

    @property
    def tasks(self) -> list[str]:
        """In the order given, each once."""
        return list(dict.fromkeys(agent.task for agent in self.agents))


def _probe(argv: list[str]) -> int:
    flags = parser("furl-probe", "Measure how well a VLM's reward orders and tells apart scripted experts' episodes.")
    flags.add_argument("--tasks", nargs="+", type=str, default=None, help="Tasks or sets (mt10, or the checkpoint's).")
    flags.add_argument("--vlm", type=VLM | None, default=None, help="The VLM, as in furl-fit's model.vlm (Embedded).")
    flags.add_argument("--ckpt_path", type=str | None, default=None, help="Also measure this run's own reward.")
    flags.add_argument("--prompts", type=dict[str, str] | None, default=None, help="Sentences by task: {reach: go}.")
    flags.add_argument("--seeds", type=list[int] | None, default=None, help="Of the placements ([0, 1]).")
    flags.add_argument("--goal", type=GoalMode | None, default=None, help="Goal mode of the episodes (fixed).")
    flags.add_argument("--processes", type=int, default=2, help="Processes that play and draw the episodes.")
    flags.add_argument("--out", type=str, default="probe", help="Folder for index.html, probe.csv and the figures.")
    given = parse(flags, argv)
    out = Path(given.out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "probe.csv").exists())):
        raise BadInput(f"{out} holds something else than a probe; choose another --out")
    if given.processes < 1:
        raise BadInput(f"processes must be at least 1, not {given.processes}")
    subject = _subject(given)
    episodes = play(subject, given.processes)
    tables, drawn = measure(subject, episodes)
    out.mkdir(parents=True, exist_ok=True)
    for task, png in drawn.items():
        (out / f"{task}.png").write_bytes(png)
    _write_csv(out / "probe.csv", tables)
    _page(subject, tables, drawn).write(out / "index.html")
    print(text(tables))
    print(f"written: {out / 'index.html'}, {out / 'probe.csv'}, and a figure of each task")
    return 0


def _subject(given: Any) -> Subject:
    try:
        tasks = task_names(names(given.tasks)) if given.tasks is not None else None
        if given.ckpt_path is None:
            wanted = task_names("mt10") if tasks is None else tasks
            prompts = given.prompts or {}
            unknown = sorted(set(prompts) - set(wanted))
            if unknown:
                raise BadInput(f"prompts names {', '.join(unknown)}, not among the tasks: {', '.join(wanted)}")
            seeds = [0, 1] if given.seeds is None else given.seeds
            if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
                raise BadInput(f"seeds must be different whole numbers from 0 on, at least one, not {seeds}")
            return Subject(
                given.vlm or Embedded(),
                [Agent(task, seed) for task in wanted for seed in seeds],
                {task: prompts.get(task, INSTRUCTIONS[task]) for task in wanted},
                SimulatorSettings(given.goal or "fixed", "fast"),
                None,
            )
    except UnknownTask as error:
        raise BadInput(str(error)) from error
    for name in ("prompts", "seeds", "goal"):
        if getattr(given, name) is not None:
            raise BadInput(f"--{name} cannot be given with --ckpt_path: it is the run's own")
    trained = load(Path(given.ckpt_path), given.vlm)
    if trained.module.vlm is None:
        raise BadInput(f"{given.ckpt_path} is of a run without a VLM: there is no reward to probe")
    rows = trained.rows(tasks)
    return Subject(
        trained.module.vlm,
        [trained.agents[row] for row in rows],
        {trained.agents[row].task: trained.data.instructions[row] for row in rows},
        trained.data.settings,
        trained,
    )


def play(subject: Subject, processes: int) -> dict[tuple[Agent, Manner], Episode]:
    """An episode of each agent's placement in each manner."""
    wanted = [(agent, manner) for agent in subject.agents for manner in MANNERS]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        played = pool.imap(_play, [(agent, manner, subject.settings) for agent, manner in wanted])
        shown = tqdm(played, "episodes", len(wanted), disable=not sys.stderr.isatty())
        return dict(zip(wanted, shown, strict=True))


def _play(wanted: tuple[Agent, Manner, SimulatorSettings]) -> Episode:
    torch.set_num_threads(1)
    agent, manner, settings = wanted
    return record(
        agent.task,
        agent.seed,
        settings.goal,
        manner,
        EVERY,
        None,
        settings.render or "fast",
        settings.mirror,
        settings.bgr,
    )


Table = dict[str, dict[str, float]]
"""Figures by task and column."""


def measure(
    subject: Subject, episodes: dict[tuple[Agent, Manner], Episode]
) -> tuple[dict[str, Table], dict[str, bytes]]:
    """Tables by kind of reward (zero-shot, and the run's own where that is another), and a figure of each task."""
    tables: dict[str, Table] = {"zero-shot": {}}
    own = None
    if subject.trained is not None and subject.trained.module.reward_source != "cosine":
        own = subject.trained.module.reward_source.replace("_", " ")
        tables[own] = {}
    drawn: dict[str, bytes] = {}
    for task in subject.tasks:
        instruction = embed_prompts(subject.vlm, [subject.instructions[task]])
        measured = {
            key: Measured(subject.vlm, task, episode, instruction)
            for key, episode in episodes.items()
            if key[0].task == task
        }
        rewards = {"zero-shot": {id(m): m.cosine for m in measured.values()}}
        if own is not None and subject.trained is not None:
            module, agents = subject.trained.module, subject.trained.agents
            rewards[own] = {
                id(m): module.embedding_reward(agents.index(agent), m.embedding).numpy()
                for (agent, _), m in measured.items()
            }
        experts = [m for (_, manner), m in measured.items() if manner == "expert"]
        others = [m for (_, manner), m in measured.items() if manner != "expert"]
        for kind, by_id in rewards.items():
            tables[kind][task] = figures(experts, others, by_id)
        drawn[task] = _draw(text_of(subject.instructions[task]), measured, rewards, tables)
    return tables, drawn


def _draw(
    instruction: str,
    measured: dict[tuple[Agent, Manner], Measured],
    rewards: dict[str, dict[int, np.ndarray]],
    tables: dict[str, Table],
) -> bytes:
    """Reward against time for every episode, under frames of the first expert's."""
    figure = Figure(figsize=(10, 5.6), dpi=100, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.7, 3.9])
    frames, curves = parts
    (first, _), expert = next(iter(measured.items()))
    task = first.task
    count = 6
    last = len(expert.cosine) - 1 if expert.success is None else expert.success
    for axis, i in zip(frames.subplots(1, count), np.linspace(0, last, count).round().astype(int), strict=True):
        axis.imshow(expert.episode.frames[i])
        axis.set_title(f"step {expert.episode.step[i]}: {expert.cosine[i]:+.2f}", fontsize=9)
        axis.axis("off")
    frames.suptitle(f'{task}: "{instruction}" (an expert\'s way, zero-shot reward)', fontsize=11)
    panels = curves.subplots(1, len(rewards), squeeze=False)[0]
    for axis, (kind, by_id) in zip(panels, rewards.items(), strict=True):
        told: set[str] = set()
        for (_, manner), m in reversed(measured.items()):  # experts on top
            axis.plot(
                m.episode.step, by_id[id(m)], color=COLOURS[manner], lw=2 if manner == "expert" else 1,
                alpha=1 if manner == "expert" else 0.6, label=None if manner in told else manner,
            )  # fmt: skip
            told.add(manner)
            if m.success is not None:
                axis.plot(
                    m.episode.step[m.success], by_id[id(m)][m.success], "*", color=COLOURS[manner], ms=11, mec="k"
                )
        told_in_figures = tables[kind][task]
        axis.set_title(
            f"{kind}: rank correlation {told_in_figures['correlation']:.2f}, "
            f"wrong pairs {told_in_figures['wrong_pairs']:.0%}, gap {told_in_figures['gap']:+.2f}",
            fontsize=10,
        )
        axis.set_xlabel("environment step (star: first success)")
        axis.set_ylabel("VLM reward (cosine)")
        axis.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[0].legend(handles[::-1], labels[::-1], fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def rows(table: Table) -> list[list[str]]:
    """A table's cells, the mean over tasks last."""
    cells = [[task, *(_cell(values[name]) for name in COLUMNS)] for task, values in table.items()]
    means = []
    for name in COLUMNS:
        there = [values[name] for values in table.values() if not math.isnan(values[name])]
        means.append(_cell(float(np.mean(there)) if there else math.nan))
    return [*cells, ["all", *means]]


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def text(tables: dict[str, Table]) -> str:
    """The tables for the screen."""
    lines = []
    for kind, table in tables.items():
        width = max(len(task) for task in [*table, "task"])
        lines.append(f"{kind} reward")
        lines.append("  ".join([f"{'task':<{width}}", *(f"{name:>11}" for name in COLUMNS)]))
        lines += ["  ".join([f"{row[0]:<{width}}", *(f"{cell:>11}" for cell in row[1:])]) for row in rows(table)]
        lines.append("")
    lines += [f"{name}: {says}" for name, says in COLUMNS.items()]
    return "\n".join(lines)


def _write_csv(path: Path, tables: dict[str, Table]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["reward", "task", *COLUMNS])
        for kind, table in tables.items():
            writer.writerows([kind, task, *values.values()] for task, values in table.items())


def _page(subject: Subject, tables: dict[str, Table], drawn: dict[str, bytes]) -> Page:
    page = Page(f"How fuzzy is the reward of {subject.vlm.name}?")
    seeds = sorted({agent.seed for agent in subject.agents})
    page.text(
        f"VLM {subject.vlm.name}, fingerprint {subject.vlm.fingerprint[:16]}. For each task and seed "
        f"({', '.join(map(str, seeds))}; {subject.settings.goal} goals) a scripted expert's episode, three disturbed "
        "ones (action noise; interrupted by random actions; stopped halfway) and one of random actions, a frame every "
        f"{EVERY} steps. Time counts up to the first success."
    )
    if subject.trained is not None:
        page.text(f"The run: {subject.trained.checkpoint} after {subject.trained.env_steps:,} steps.")
    for kind, table in tables.items():
        page.table(f"{kind} reward", ["task", *COLUMNS], rows(table), ruled=1)
    page.items([f"{name}: {says}" for name, says in COLUMNS.items()])
    for task, png in drawn.items():
        page.heading(task)
        page.picture(png, f"reward against time, {task}")
    return page
