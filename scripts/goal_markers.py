"""Where goal markers are in the pictures, against where the goals are, for all tasks; and that only pictures change.

    python scripts/goal_markers.py --out docs/goal_markers.md

Each task is placed from ``--seeds`` seeds, goals fixed and random, ``--episodes`` episodes each, and looked at after
the reset and after a step: as Meta-World leaves it, and as it is drawn here. Observations, rewards and success of the
two must be equal bit by bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import mujoco
import numpy as np

from furl_lightning.envs.goal_markers import MENDED
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.rendering import close_gl
from furl_lightning.envs.simulator import GoalMode, SimulatorSettings
from furl_lightning.tasks import TASK_SETS, task_names

HEAD = """# Goal markers

A picture shows the goal as a small sphere, a *site* of MuJoCo's model. Where Meta-World puts it, and where it is drawn
here, against `_target_pos`, which reward and success are computed from: the greatest distance in metres over {seeds}
seeds and {episodes} episodes each, with fixed goals, with random goals. *At the reset* is an episode's first frame,
*later* every other; *another* is a second marker that is drawn too, and how far that is from the goal. *Pixels* is how
many of a frame's 192 x 192 the marker covers here, median and range; where that is 0 something stands before it.
Only pictures change: observations, rewards and success are the same bit by bit, which the script checks.
Made by `{command}`.

- {mended}: Meta-World shows their marker elsewhere, or the opposite task's beside it. Here it is moved, and the other
  hidden ([envs/goal_markers.py](../furl_lightning/envs/goal_markers.py)). Meta-World moves the site in the state, which
  is recomputed from the model before it is drawn; and a site that the model has at its body's origin stays there, until
  MuJoCo is told otherwise.
- The first frame after a reset is drawn from bodies and markers brought up to date. Meta-World's own shows some where
  they were before: in random mode the last episode's goal, and windows, drawers and the like (not in this table) too.
- {none} have no marker in Meta-World, nor here: the goal is a button that is pressed, or a bin. A button's goal lies
  inside its box, where a marker could not be seen.
- Of MT10 every frame but the first of an episode is what Meta-World draws, bit by bit.
- The embedded vision-language model was trained on Meta-World's pictures of the forty tasks outside MT10.
- A run that has seen the old pictures of a mended task is not resumed: the refusal says so. It can be evaluated.

| task | set | marker | Meta-World, at the reset | later | another | here, at the reset | later | pixels |
|---|---|---|---|---|---|---|---|---|
"""


GOALS: tuple[GoalMode, ...] = ("fixed", "random")


@dataclass
class Distances:
    """Of one task and goal mode, in metres, over all placements."""

    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)
    first_here: list[float] = field(default_factory=list)
    later_here: list[float] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)


def drawn_markers(simulator: MetaWorld) -> list[str]:
    """The goal markers that a picture shows: sites named so, or named by the task, that have a colour."""
    model = simulator.env.model
    named = {name for name, _ in simulator.env._target_site_config}
    names = [model.site(i).name for i in range(model.nsite)]
    return [name for name in names if ("goal" in name or name in named) and model.site(name).rgba[3] > 0]


def marker_of(simulator: MetaWorld) -> str | None:
    """The site that belongs at the goal."""
    names = drawn_markers(simulator)
    if simulator.task in MENDED:
        return MENDED[simulator.task].goal
    return "mug_goal" if "mug_goal" in names else next(iter(names), None)


def off(simulator: MetaWorld, data: mujoco.MjData, site: str) -> float:
    """Distance of a site from the goal."""
    place: np.ndarray = data.site(site).xpos
    return float(np.linalg.norm(place - simulator.env._target_pos))


def pixels(simulator: MetaWorld, site: str) -> int:
    """Pixels of the present frame that a site covers."""
    color = simulator.env.model.site(site).rgba
    shown, alpha = simulator.frame(), color[3]
    color[3] = 0
    hidden = simulator.frame()
    color[3] = alpha
    return int((shown != hidden).any(-1).sum())


def measure(task: str, goal: GoalMode, seeds: int, episodes: int) -> tuple[str | None, Distances]:
    """A task's marker and its distances; fails where anything but pictures differs."""
    marker, found = None, Distances()
    for seed in range(seeds):
        theirs = MetaWorld(task, seed, SimulatorSettings(goal))  # without a picture nothing is moved
        ours = MetaWorld(task, seed, SimulatorSettings(goal, "fast"))
        for each in _both(theirs, ours, np.random.default_rng(seed), episodes):
            marker = marker_of(theirs)
            if marker is None:
                continue
            first = each == 0
            (found.first if first else found.later).append(off(theirs, theirs.env.data, marker))
            (found.first_here if first else found.later_here).append(off(ours, ours.drawn_state(), marker))
            found.pixels.append(pixels(ours, marker))
            for name in drawn_markers(theirs):
                if name != marker and not first:
                    found.others.setdefault(name, []).append(off(theirs, theirs.env.data, name))
            assert drawn_markers(ours) == [marker] or task not in MENDED
        ours.close()
    return marker, found


def _both(theirs: MetaWorld, ours: MetaWorld, random: np.random.Generator, episodes: int) -> Iterator[int]:
    """Play random steps in both; yields after the reset (0) and after the last step of each episode."""
    for _ in range(episodes):
        assert np.array_equal(theirs.reset(), ours.reset())
        yield 0
        for _ in range(10):
            action = random.uniform(-1, 1, 4).astype(np.float32)
            one, other = theirs.step(action), ours.step(action)
            assert np.array_equal(one.observation, other.observation) and one[1:] == other[1:]
        yield 1


def row(task: str, results: dict[GoalMode, tuple[str | None, Distances]]) -> str:
    """A task's line of the table."""
    both, marker = [distances for _, distances in results.values()], results["fixed"][0]
    cells: list[Any] = [task, next(name for name, names in TASK_SETS.items() if task in names), marker or "none"]
    if marker is None:
        return f"| {' | '.join([*cells, *['-'] * 6])} |"
    others = {name: max(both[0].others[name]) for name in both[0].others}
    counts = [count for distances in both for count in distances.pixels]
    cells += [
        ", ".join(f"{max(d.first):.2f}" for d in both),
        ", ".join(f"{max(d.later):.2f}" for d in both),
        ", ".join(f"{name} {distance:.2f}" for name, distance in others.items()) or "-",
        ", ".join(f"{max(d.first_here):.2f}" for d in both),
        ", ".join(f"{max(d.later_here):.2f}" for d in both),
        f"{median(counts):.0f} ({min(counts)} to {max(counts)})",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table and, with ``--out``, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["mt50"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    lines, none = [], []
    for task in task_names(options.tasks):
        results = {goal: measure(task, goal, options.seeds, options.episodes) for goal in GOALS}
        lines.append(row(task, results))
        none += [task] if results["fixed"][0] is None else []
        print(lines[-1], flush=True)
    if options.out is not None:
        text = HEAD.format(
            seeds=options.seeds,
            episodes=options.episodes,
            command="python scripts/goal_markers.py",
            mended=", ".join(MENDED),
            none=", ".join(none),
        )
        options.out.write_text(text + "\n".join(lines) + "\n")
    close_gl()


if __name__ == "__main__":
    main()
