"""``furl-oracle``: scripted experts' episodes as videos, goal images and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.envs.episodes import AFTER_SUCCESS, Episode, play
from furl_lightning.envs.rendering import RenderQuality
from furl_lightning.envs.simulator import Expert, GoalMode, Simulator
from furl_lightning.tasks import EPISODE_STEPS, INSTRUCTIONS, Agent, UnknownTask, task_names
from furl_lightning.training.film import Film, pictures, strip, write_video
from furl_lightning.utils.errors import BadInput

FPS = 20


def oracle(argv: Sequence[str] | None = None) -> int:
    """``furl-oracle``; returns the exit status."""
    return answer("furl-oracle", _oracle, argv)


def _oracle(argv: list[str]) -> int:
    flags = parser("furl-oracle", "Play Meta-World's scripted experts: video, film strip, goal image and npz of each.")
    flags.add_argument("--tasks", nargs="+", type=str, default=["mt10"], help="Tasks or sets of them.")
    flags.add_argument("--seeds", type=list[int], default=[0], help="Of the placements.")
    flags.add_argument(
        "--goal", type=GoalMode, default="fixed", help="As in furl-fit; a seed's first placement is played."
    )
    flags.add_argument("--render", type=RenderQuality, default="fast", help="As in furl-fit.")
    flags.add_argument("--out", type=str, default="oracle", help="Folder for the files.")
    given = parse(flags, argv)
    try:
        tasks = task_names(names(given.tasks))
    except UnknownTask as error:
        raise BadInput(str(error)) from error
    if not given.seeds or min(given.seeds) < 0 or len(set(given.seeds)) < len(given.seeds):
        raise BadInput(f"seeds must be different whole numbers from 0 on, at least one, not {given.seeds}")
    out = Path(given.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    width = max(map(len, tasks)) + 4
    print(f"{'task/seed':<{width}}  first success  frames")
    for agent in [Agent(task, seed) for task in tasks for seed in given.seeds]:
        episode = demonstrate(agent, given.goal, given.render)
        write(out, agent, given.goal, episode)
        first = episode.first_success()
        told = "none: the expert fails" if first is None else f"step {episode.step[first]}"
        print(f"{agent!s:<{width}}  {told:>13}  {len(episode.step):6d}", flush=True)
    print(f"written: a video, a film strip, a goal image and an .npz of each in {out}")
    return 0


def demonstrate(agent: Agent, goal: GoalMode, render: RenderQuality = "fast") -> Episode:
    """An expert's episode, every step of it, until a little after its first success."""
    simulator = Simulator(agent.task, agent.seed, goal, render, show_goal=True)
    expert = Expert(agent.task)

    def act(step: int, observation: np.ndarray) -> np.ndarray:
        return expert.action(observation.astype(np.float32))  # as agents see it, and as the goal image's expert does

    try:
        return play(simulator, act, range(EPISODE_STEPS + 1), EPISODE_STEPS, AFTER_SUCCESS)
    finally:
        simulator.close()


def write(out: Path, agent: Agent, goal: GoalMode, episode: Episode) -> None:
    """An episode's files. The .npz holds the fields of :class:`Episode`, and task, instruction, seed and goal mode."""
    name = str(agent).replace("/", "-")
    film = Film(agent, INSTRUCTIONS[agent.task], episode, None)
    write_video(out / name, pictures(film), FPS)
    Image.fromarray(strip(film)).save(out / f"{name}-strip.png")
    first = episode.first_success()
    if first is not None:
        Image.fromarray(episode.frames[first]).save(out / f"{name}-goal.png")
    np.savez_compressed(
        out / f"{name}.npz",
        allow_pickle=False,
        task=agent.task,
        instruction=INSTRUCTIONS[agent.task],
        seed=agent.seed,
        goal_mode=goal,
        **vars(episode),
    )
