"""``furl-probe``: how fuzzy are a VLM's reward and its distance to the goal image, as tables, figures and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from furl_lightning.analysis.figures import draw_rewards, png
from furl_lightning.analysis.html_page import Page
from furl_lightning.analysis.placements import EVERY, goal_images, play, worker_pool
from furl_lightning.analysis.probe import DISTANCE, MEASURES, ScoredEpisode, ScoredEpisodes, measure
from furl_lightning.analysis.remarks import OTHERS, Nonsense, remarks
from furl_lightning.analysis.tables import Measures, measures_table, write_probe
from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.commands.precision import warn_of_slow_bfloat16
from furl_lightning.envs.episodes import Episode, Manner
from furl_lightning.envs.examination import sizes_of, with_sizes
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.envs.simulator import GoalMode, SimulatorSettings
from furl_lightning.envs.simulators import sentences, task_names
from furl_lightning.method.alignment import AlignmentSettings
from furl_lightning.tasks import METAWORLD, Agent
from furl_lightning.training.trained import Trained, load
from furl_lightning.utils.durable import is_other, write_folder
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import refuse_unwritable
from furl_lightning.utils.text_table import text_table
from furl_lightning.vlm import VLM, Embedded
from furl_lightning.vlm.prompts import Prompt, embed_prompt, text_of

MANNERS: tuple[Manner, ...] = get_args(Manner)
MARK = "probe.csv"
"""The file by which a folder is known as a probe."""


def probe(argv: Sequence[str] | None = None) -> int:
    """``furl-probe``; returns the exit status."""
    return answer("furl-probe", _probe, argv)


@dataclass
class Subject:
    """What is probed: which VLM, on whose episodes, with which sentences."""

    vlm: VLM
    agents: list[Agent]
    """Whose placements are played; with a checkpoint, agents of its run."""
    instructions: Mapping[str, Prompt]
    """By task."""
    settings: SimulatorSettings
    trained: Trained | None
    """The checkpoint, where its own reward is measured too."""
    l2_margin: float | None
    """``model.alignment.l2_margin`` of the run; None where it learns from no goal image."""
    goals: Mapping[Agent, Tensor] = field(default_factory=dict)
    """Embeddings, float32 [width], of goal images that the run was given as files (``data.goal_images``)."""

    @property
    def tasks(self) -> list[str]:
        """Each once, in the order of the agents."""
        return list(dict.fromkeys(agent.task for agent in self.agents))

    @cached_property
    def embeddings(self) -> dict[str, Tensor]:
        """The VLM's embedding of each task's sentence, float32 [width].

        Raises:
            BadInput: a sentence that the VLM cannot read.
        """
        option = "prompts" if self.trained is None else "data.prompts"
        return {task: embed_prompt(self.vlm, self.instructions[task], f"{option}.{task}") for task in self.tasks}


def _probe(argv: list[str]) -> int:
    options = parser("furl-probe", "Measure how well a VLM's reward orders and tells apart scripted experts' episodes.")
    options.add_argument("--tasks", nargs="+", type=str, default=None, help="Tasks or sets (mt10; the checkpoint's).")
    options.add_argument("--vlm", type=VLM | None, default=None, help="The VLM, as in furl-fit's model.vlm (Embedded).")
    options.add_argument(
        "--simulator",
        type=str | None,
        default=None,
        help="MetaWorld, Fetch, or a class of yours (MetaWorld, the checkpoint's).",
    )
    options.add_argument("--ckpt_path", type=str | None, default=None, help="Also measure this run's own reward.")
    options.add_argument(
        "--prompts", type=dict[str, Prompt] | None, default=None, help="Sentences by task: {reach: go}."
    )
    options.add_argument("--seeds", type=list[int] | None, default=None, help="Of the placements ([0, 1]).")
    options.add_argument("--goal", type=GoalMode | None, default=None, help="Goal mode of the episodes (fixed).")
    options.add_argument(
        "--l2_margin", type=float | None, default=None, help="Judge this model.alignment.l2_margin (furl-fit's own)."
    )
    options.add_argument("--processes", type=int, default=2, help="Processes that play and render the episodes.")
    options.add_argument("--out", type=str, default="probe", help="Folder for index.html, probe.csv and the figures.")
    arguments = parse(options, argv)
    out = Path(arguments.out)
    refuse_unwritable(out, "--out")
    if is_other(out, MARK):
        raise BadInput(f"{out} holds something else than a probe; choose another --out")
    if arguments.processes < 1:
        raise BadInput(f"processes must be at least 1, not {arguments.processes}")
    tasks = None if arguments.tasks is None else names(arguments.tasks)
    subject = _of_vlm(arguments, tasks) if arguments.ckpt_path is None else _of_checkpoint(arguments, tasks)
    warn_of_slow_bfloat16(subject.vlm)
    subject.embeddings  # noqa: B018  # refuses what the VLM cannot read, before anything is played
    agents = subject.agents
    with worker_pool(arguments.processes) as pool:
        without = [agent for agent in agents if agent not in subject.goals]
        goals = goal_images(pool, without, subject.settings) | goal_images(pool, OTHERS, metaworld(subject.settings))
        played = play(pool, agents, subject.settings, MANNERS)
        episodes = {(agent, manner): episode for agent, manner, episode in played}
    print(write_folder(out, MARK, lambda folder: write(folder, subject, episodes, goals)))
    print(f"written: {out / 'index.html'}, {out / 'probe.csv'}, and a figure of each task")
    return 0


def _of_vlm(arguments: Any, tasks: list[str] | None) -> Subject:
    """A VLM alone, on placements of the given seeds."""
    simulator = arguments.simulator or METAWORLD
    own = sentences(simulator)
    every = "mt10" if simulator == METAWORLD else list(own)
    tasks = task_names(simulator, every if tasks is None else tasks)
    prompts = arguments.prompts or {}
    unknown = sorted(set(prompts) - set(tasks))
    if unknown:
        raise BadInput(f"prompts names {', '.join(unknown)}, not among the tasks: {', '.join(tasks)}")
    seeds = [0, 1] if arguments.seeds is None else arguments.seeds
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise BadInput(f"seeds must be different whole numbers from 0 on, at least one, not {seeds}")
    alignment = AlignmentSettings() if arguments.l2_margin is None else AlignmentSettings(l2_margin=arguments.l2_margin)
    silent = [task for task in tasks if task not in own and task not in prompts]
    if silent:
        raise BadInput(f"--prompts must have a sentence for {', '.join(silent)}, which brings none of its own")
    sizes = sizes_of(simulator, {}, tasks)
    longest = min(size.episode_steps for size in sizes.values())
    env = EnvSettings(arguments.goal or "fixed", simulator=simulator, episode_steps=longest)
    vlm = arguments.vlm or Embedded()
    return Subject(
        vlm,
        [Agent(task, seed) for task in tasks for seed in seeds],
        {task: prompts.get(task) or own[task] for task in tasks},
        with_sizes(env.simulators(True, vlm.render, vlm.picture_size), sizes),
        None,
        alignment.l2_margin,
    )


def _of_checkpoint(arguments: Any, tasks: list[str] | None) -> Subject:
    """A checkpoint's VLM, on its run's placements and sentences."""
    for name in ("prompts", "seeds", "goal", "l2_margin"):
        if getattr(arguments, name) is not None:
            raise BadInput(f"--{name} cannot be given with --ckpt_path: it is the run's own")
    trained = load(Path(arguments.ckpt_path), arguments.vlm, arguments.simulator)
    if trained.module.vlm is None:
        raise BadInput(f"{arguments.ckpt_path} is of a run without a VLM: there is no reward to probe")
    rows = trained.rows(tasks)
    given = [row for row in rows if trained.agents[row].task in trained.data.goal_files]
    return Subject(
        trained.module.vlm,
        [trained.agents[row] for row in rows],
        {trained.agents[row].task: trained.data.instructions[row] for row in rows},
        trained.data.simulators,
        trained,
        trained.module.alignment_settings.l2_margin if trained.data.goal_image else None,
        {trained.agents[row]: trained.goal_embedding[row] for row in given}
        if trained.goal_embedding is not None
        else {},
    )


def metaworld(settings: SimulatorSettings) -> SimulatorSettings:
    """Meta-World's simulators with another's picture: their goal images are images of something else."""
    ours = SimulatorSettings(settings.goal, settings.render, settings.mirror, settings.bgr, size=settings.size)
    return settings if settings.simulator == METAWORLD else ours


Scored = dict[tuple[Agent, Manner], ScoredEpisode]
"""One task's episodes with a reward; an expert's first."""


def score(
    subject: Subject,
    task: str,
    episodes: Mapping[tuple[Agent, Manner], Episode],
    goals: Mapping[Agent, np.ndarray],
) -> dict[str, Scored]:
    """One task's episodes by kind of reward: zero-shot, the run's own where that is another, and the distance.

    The distance is to the goal image that the run was given for the task, or else to that of the episode's own
    placement; an episode without one is left out there.
    """
    zero_shot = {
        (agent, manner): ScoredEpisode.zero_shot(subject.vlm, task, episode, subject.embeddings[task])
        for (agent, manner), episode in episodes.items()
        if agent.task == task
    }
    kinds = {"zero-shot": zero_shot}
    if subject.trained is not None and subject.trained.module.reward_settings.source != "cosine":
        module, agents = subject.trained.module, subject.trained.agents
        kinds[module.reward_settings.source.replace("_", " ")] = {
            (agent, manner): replace(scored, reward=module.built.score(agents.index(agent), scored.embedding).numpy())
            for (agent, manner), scored in zero_shot.items()
        }
    images = {agent: image for agent, image in goals.items() if agent.task == task}
    goal = {agent: subject.vlm.encode_images(torch.from_numpy(image[None]))[0] for agent, image in images.items()}
    goal |= {agent: embedding for agent, embedding in subject.goals.items() if agent.task == task}
    kinds[DISTANCE] = {key: scored.closeness(goal[key[0]]) for key, scored in zero_shot.items() if key[0] in goal}
    return kinds


def write(
    out: Path,
    subject: Subject,
    episodes: Mapping[tuple[Agent, Manner], Episode],
    goals: Mapping[Agent, np.ndarray],
) -> str:
    """Write the probe's files; returns its tables and what is to be said as text.

    Args:
        out: an empty folder.
        subject: what is probed.
        episodes: of each agent in each manner.
        goals: goal images, uint8 [size, size, 3], of the agents whose expert succeeds, and of :data:`OTHERS`.
    """
    measures: dict[str, dict[str, dict[str, float]]] = {}
    pictures = {}
    words = [
        f"{agent.task}, seed {agent.seed}: "
        + ("the scripted expert fails" if (agent, "expert") in episodes else "there is no scripted expert")
        + ": no goal image, and no distance to it"
        for agent in subject.agents
        if agent not in goals and agent not in subject.goals
    ]
    nonsense = Nonsense.embed(subject.vlm, goals, subject.settings.size)
    for task in subject.tasks:
        kinds = score(subject, task, episodes, goals)
        for kind, scored in kinds.items():
            measures.setdefault(kind, {})[task] = measure(_by_manner(scored))
        words += remarks(
            task, {kind: _by_manner(of_kind) for kind, of_kind in kinds.items()}, nonsense, subject.l2_margin
        )
        figure = draw_rewards(
            f'{task}: "{text_of(subject.instructions[task])}" (an expert\'s way, zero-shot reward)',
            {kind: [(manner, s) for (_, manner), s in scored.items()] for kind, scored in kinds.items() if scored},
            {kind: values[task] for kind, values in measures.items()},
        )
        pictures[task] = png(figure)
    for task, picture in pictures.items():
        (out / f"{task}.png").write_bytes(picture)
    write_probe(out / MARK, measures)
    _page(subject, measures, words, pictures).write(out / "index.html")
    tables = {_title(kind): measures_table(values) for kind, values in measures.items()}
    texts = [text_table(table.header, table.rows, title, table.ruled) + "\n" for title, table in tables.items()]
    texts += ["\n".join(words) + "\n"] if words else []
    return "\n".join([*texts, *(f"{name}: {about}" for name, about in MEASURES.items())])


def _by_manner(scored: Scored) -> ScoredEpisodes:
    return {manner: [s for (_, of), s in scored.items() if of == manner] for manner in MANNERS}


def _title(kind: str) -> str:
    return "distance to the goal image, as a reward: the closer the more" if kind == DISTANCE else f"{kind} reward"


def _page(
    subject: Subject, measures: Mapping[str, Measures], words: Sequence[str], pictures: Mapping[str, bytes]
) -> Page:
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
    if subject.goals:
        tasks = ", ".join(dict.fromkeys(agent.task for agent in subject.goals))
        page.text(f"The goal image is a picture that the run was given (data.goal_images): {tasks}.")
    for kind, values in measures.items():
        page.table(_title(kind), *measures_table(values))
    page.items([f"{name}: {about}" for name, about in MEASURES.items()])
    if words:
        page.heading("In words")
        page.items(words)
    for task, picture in pictures.items():
        page.heading(task)
        page.picture(picture, f"reward against time, {task}")
    return page
