"""The oracle row: success of Meta-World's scripted experts on all tasks, as an evaluation of a policy would count it.

    python scripts/experts.py --out docs/experts.md

Fixed goals: one episode for each of ``--seeds``, the placements that agents with these seeds train
on. Random goals: ``--episodes`` of the evaluation environment of seed 0, which is seeded with 100.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import NamedTuple

from furl_lightning.envs.metaworld import Expert, MetaWorld
from furl_lightning.envs.simulator import GoalMode, SimulatorSettings
from furl_lightning.tasks import EPISODE_STEPS, TASK_SETS, task_names
from furl_lightning.training.evaluation import RANDOM_GOAL_SEED_OFFSET

HEAD = """# The scripted experts, task by task

The oracle row for any table of success: Meta-World's own scripted policies, which see the goal, judged as a
learned policy is. *Last step* is the percentage of episodes in success at their last step, the paper's figure;
*any step* of those with a success somewhere; *first success* the median step of the first one, fixed goals. An
expert that has done its task may undo it before the episode's 500 steps are over, hence the difference.

Fixed goals: {seeds} seeds, one episode each. Random goals: {episodes} episodes placed from seed {offset}.
Made by `{command}`.

| task | set | fixed: last step | any step | first success | random: last step | any step |
|---|---|---|---|---|---|---|
"""


class Outcome(NamedTuple):
    """Of one episode."""

    last: bool  # in success at the last step
    first: int | None  # step of the first success, from 1


def episodes(task: str, seed: int, goal: GoalMode, count: int) -> list[Outcome]:
    """The scripted expert's episodes on a task; it is shown the goal."""
    simulator, expert = MetaWorld(task, seed, SimulatorSettings(goal), show_goal=True), Expert(task)
    outcomes = []
    for _ in range(count):
        observation = simulator.reset()
        first, last = None, False
        for t in range(1, EPISODE_STEPS + 1):
            step = simulator.step(expert.action(observation))
            observation, last = step.observation, step.success
            if last and first is None:
                first = t
        outcomes.append(Outcome(last, first))
    return outcomes


def share(values: list[bool]) -> str:
    """As a percentage."""
    return f"{100 * sum(values) / len(values):.0f}"


def row(task: str, seeds: int, count: int) -> tuple[str, list[str]]:
    """A task's line of the table, and the goal modes in which some episode has no success at all."""
    fixed = [outcome for seed in range(seeds) for outcome in episodes(task, seed, "fixed", 1)]
    random = episodes(task, RANDOM_GOAL_SEED_OFFSET, "random", count)
    firsts = [outcome.first for outcome in fixed if outcome.first is not None]
    cells = [task, next(name for name, names in TASK_SETS.items() if task in names)]
    for outcomes in (fixed, random):
        cells += [share([o.last for o in outcomes]), share([o.first is not None for o in outcomes])]
        if outcomes is fixed:
            cells.append(f"{statistics.median(firsts):.0f}" if firsts else "never")
    failures = []
    failed = [seed for seed, outcome in enumerate(fixed) if outcome.first is None]
    if failed:
        failures.append(f"fixed goals, seeds {', '.join(map(str, failed))}")
    misses = sum(outcome.first is None for outcome in random)
    if misses:
        failures.append(f"random goals, {misses} of {count} episodes")
    return f"| {' | '.join(cells)} |", failures


def main() -> None:
    """Print the table and, with ``--out``, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["mt50"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    command = "python scripts/experts.py"
    for name in ("tasks", "seeds", "episodes"):
        if getattr(options, name) != parser.get_default(name):
            value = getattr(options, name)
            command += f" --{name} {' '.join(value) if isinstance(value, list) else value}"
    text = HEAD.format(seeds=options.seeds, episodes=options.episodes, offset=RANDOM_GOAL_SEED_OFFSET, command=command)
    print(text, end="")
    failing = []
    for task in task_names(options.tasks):
        line, failures = row(task, options.seeds, options.episodes)
        print(line, flush=True)
        text += line + "\n"
        failing += [f"- {task}: {failure}" for failure in failures]
    end = (
        "\n## Experts that fail\n\nEpisodes without a success at any step:\n\n" + "\n".join(failing or ["none"]) + "\n"
    )
    print(end, end="")
    if options.out is not None:
        options.out.write_text(text + end)


if __name__ == "__main__":
    main()
