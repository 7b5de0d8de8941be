"""``furl-oracle``: scripted experts' episodes as videos, goal images and arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.envs.episodes import AFTER_SUCCESS, Episode, play
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.simulator import GoalMode, SimulatorSettings
from furl_lightning.pictures import RenderQuality
from furl_lightning.tasks import EPISODE_STEPS, INSTRUCTIONS, Agent, task_names
from furl_lightning.training.film import Film, pictures, strip, write_video
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import refuse_unwritable
from furl_lightning.utils.text_table import text_table

FPS = 20


def oracle(argv: Sequence[str] | None = None) -> int:
    """``furl-oracle``; returns the exit status."""
    return answer("furl-oracle", _oracle, argv)


def _oracle(argv: list[str]) -> int:
    options = parser("furl-oracle", "Play Meta-World's scripted experts: video, film strip, goal image, npz of each.")
    options.add_argument("--tasks", nargs="+", type=str, default=["mt10"], help="Tasks or sets of them.")
    options.add_argument("--seeds", type=list[int], default=[0], help="Of the placements.")
    options.add_argument(
        "--goal", type=GoalMode, default="fixed", help="As in furl-fit; a seed's first placement is played."
    )
    options.add_argument("--render", type=RenderQuality, default="fast", help="As in furl-fit.")
    options.add_argument("--out", type=str, default="oracle", help="Folder for the files.")
    arguments = parse(options, argv)
    tasks, seeds, out = task_names(names(arguments.tasks)), arguments.seeds, Path(arguments.out)
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise BadInput(f"seeds must be different whole numbers from 0 on, at least one, not {seeds}")
    refuse_unwritable(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    agents = [Agent(task, seed) for task in tasks for seed in seeds]
    for agent in tqdm(agents, "episodes", disable=not sys.stderr.isatty()):
        episode = demonstrate(agent, arguments.goal, arguments.render)
        write(out, agent, arguments.goal, episode)
        first = episode.first_success()
        success = "none: the expert fails" if first is None else f"step {episode.step[first]}"
        rows.append([str(agent), success, str(len(episode.step))])
    print(text_table(["task/seed", "first success", "frames"], rows))
    print(f"written: a video, a film strip, a goal image and an .npz of each in {out}")
    return 0


def demonstrate(agent: Agent, goal: GoalMode, render: RenderQuality = "fast") -> Episode:
    """An expert's episode, every step of it, until a little after its first success."""
    simulator = MetaWorld(agent.task, agent.seed, SimulatorSettings(goal, render), show_goal=True)

    def act(step: int, observation: np.ndarray) -> np.ndarray:
        return simulator.expert(observation.astype(np.float32))  # as agents see it, and as the goal image's expert does

    try:
        return play(simulator, act, range(EPISODE_STEPS + 1), after_success=AFTER_SUCCESS)
    finally:
        simulator.close()


def write(out: Path, agent: Agent, goal: GoalMode, episode: Episode) -> None:
    """An episode's files. The .npz holds the fields of :class:`Episode` and of its state, and who it is of."""
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
        **{name: values for name, values in vars(episode).items() if name != "state"},
        **episode.state,
    )
