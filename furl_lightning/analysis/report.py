"""Runs put side by side: learning curves, final success with intervals, sample efficiency, wall clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from furl_lightning.analysis.intervals import Interval, interquartile_mean, stratified_bootstrap, task_mean
from furl_lightning.runs.machine import CHANGES_UNNOTICED
from furl_lightning.runs.read import Run
from furl_lightning.tasks import METAWORLD, TASK_SETS, Agent
from furl_lightning.utils.errors import BadInput

LEVELS = (0.5, 0.8)
"""Success rates whose first time is reported."""
CURVE_RESAMPLES = 2_000

PUBLISHED: dict[str, dict[str, float]] = {
    "fixed": {"FuRL": 0.76, "SAC": 0.37, "VLM": 0.0, "LAGEA": 0.80},
    "random": {"FuRL": 0.646, "LAGEA": 0.704},
}
"""Mean success over MT10, sparse reward, 1,000,000 steps, 5 seeds; FuRL, SAC and VLM: arXiv 2406.00645."""
PUBLISHED_STEPS = (100_000, 200_000, 500_000, 1_000_000)
PUBLISHED_DENSE: dict[str, tuple[float, ...]] = {
    "SAC": (0.313, 0.477, 0.630, 0.700),
    "TD-MPC2": (0.757, 0.907, 0.940, 0.963),
}
"""Mean success over MT10 with random goals and dense reward after these steps, 3 seeds, as published by TD-MPC2."""


class MixedPopulations(BadInput):
    """Runs whose populations cannot be compared."""


@dataclass
class Curve:
    """Mean success against environment steps, at the evaluations that all seeds have."""

    steps: list[int]
    mean: list[float]
    band: list[Interval | None]

    def reaches(self, level: float) -> int | None:
        """Environment steps of the first evaluation with at least this success, or None."""
        return next((s for s, m in zip(self.steps, self.mean, strict=True) if m >= level), None)


@dataclass
class Aggregate:
    """Success over all tasks and seeds at the last evaluations, with 95 % intervals."""

    mean: float
    mean_95: Interval | None
    interquartile_mean: float
    interquartile_mean_95: Interval | None


@dataclass(eq=False)
class Method:
    """All runs of one name and goal mode."""

    name: str
    goal: str
    runs: list[Run] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}, {self.goal} goals"

    @property
    def tasks(self) -> list[str]:
        """Its tasks, each once, in the order of its runs."""
        return list(dict.fromkeys(agent.task for agent in self.agents()))

    def agents(self, task: str | None = None) -> list[Agent]:
        """Its population, of one task or all."""
        return [agent for run in self.runs for agent in run.agents if task in (None, agent.task)]

    def seeds(self, tasks: Sequence[str] | None = None) -> set[int]:
        """Its seeds, on some tasks or all."""
        return {agent.seed for agent in self.agents() if tasks is None or agent.task in tasks}

    def made_with(self) -> dict[str, list[str]]:
        """Versions of libraries, devices and renderers of its runs, each once, by the library's name and the like."""
        values: dict[str, list[str]] = {}
        for entry in (entry for run in self.runs for entry in run.machines):
            for name, value in entry.items():
                if name != "env_steps" and str(value) not in values.setdefault(name, []):
                    values[name].append(str(value))
        return values

    def success(self, agent: Agent) -> dict[int, float]:
        """An agent's success at each evaluation, by environment steps."""
        return self._run(agent).success[agent]

    def training(self, agent: Agent) -> dict[int, float]:
        """By an agent's evaluations: the share of successes among its training episodes since the one before."""
        run = self._run(agent)
        shares, before = {}, 0
        for steps in sorted(run.success[agent]):
            episodes = [success for end, success in run.training[agent].items() if before < end <= steps]
            if episodes:
                shares[steps] = float(np.mean(episodes))
            before = steps
        return shares

    def _run(self, agent: Agent) -> Run:
        return next(run for run in self.runs if agent in run.success)

    def final(self, task: str) -> np.ndarray:
        """Success of each seed at its run's last evaluation, [seeds that have one]."""
        evaluations = [self.success(agent) for agent in self.agents(task)]
        return np.array([success[max(success)] for success in evaluations if success])

    def curve(self, tasks: Sequence[str], training: bool = False) -> Curve:
        """Mean success over some tasks, with a stratified bootstrap band: of evaluations, or of training episodes."""
        success = self.training if training else self.success
        strata = [[values for agent in self.agents(task) if (values := success(agent))] for task in tasks]
        if not all(strata):
            return Curve([], [], [])
        steps = sorted(set.intersection(*(set(values) for stratum in strata for values in stratum)))
        scores = [[np.array([values[step] for values in stratum]) for stratum in strata] for step in steps]
        return Curve(
            steps,
            [float(task_mean(score)) for score in scores],
            [stratified_bootstrap(score, task_mean, CURVE_RESAMPLES) for score in scores],
        )

    def aggregate(self, tasks: Sequence[str]) -> Aggregate | None:
        """Mean and interquartile mean (rliable's definitions); None where a task has no evaluation."""
        strata = [self.final(task) for task in tasks]
        if not all(len(stratum) for stratum in strata):
            return None
        return Aggregate(
            float(task_mean(strata)),
            stratified_bootstrap(strata, task_mean),
            float(interquartile_mean(strata)),
            stratified_bootstrap(strata, interquartile_mean),
        )


Totals = Mapping[Method, Aggregate | None]
"""Each method over all tasks and seeds."""


def group(runs: Sequence[Run], names: Sequence[str], tasks: Sequence[str] | None = None) -> list[Method]:
    """Runs of one name and goal mode together.

    Raises:
        MixedPopulations: a method has an agent twice or lacks one of ``tasks``, or ``tasks`` is None and methods
            with the same goal mode have different tasks.
    """
    methods: dict[tuple[str, str], Method] = {}
    for run, name in zip(runs, names, strict=True):
        methods.setdefault((name, run.goal), Method(name, run.goal)).runs.append(run)
    for method in methods.values():
        owner: dict[Agent, Run] = {}
        for run in method.runs:
            for agent in run.agents:
                if agent in owner:
                    raise MixedPopulations(
                        f"mixed populations: {owner[agent].folder} and {run.folder} both have {agent} of "
                        f"{method.name} ({method.goal} goals); give one of them, or tell them apart with --label"
                    )
                owner[agent] = run
    for goal, rivals in by_goal(methods.values()):
        if tasks is None:
            shared = [task for task in rivals[0].tasks if all(task in method.tasks for method in rivals)]
            if any(set(method.tasks) != set(shared) for method in rivals):
                listed = "; ".join(f"{method.name} has {', '.join(method.tasks)}" for method in rivals)
                hint = f"compare what they share with --tasks {' '.join(shared)}" if shared else "they share none"
                raise MixedPopulations(f"mixed populations ({goal} goals): {listed}; {hint}")
        for method in rivals:
            lacking = [task for task in tasks or [] if task not in method.tasks]
            if lacking:
                raise MixedPopulations(f"mixed populations ({goal} goals): {method.name} has no {', '.join(lacking)}")
    return list(methods.values())


def by_goal(methods: Iterable[Method]) -> list[tuple[str, list[Method]]]:
    """Methods with the same goal mode together: those that are compared."""
    groups: dict[str, list[Method]] = {}
    for method in methods:
        groups.setdefault(method.goal, []).append(method)
    return list(groups.items())


def tasks_of(methods: Sequence[Method]) -> list[str]:
    """Their tasks, in the order of the first."""
    return list(dict.fromkeys(task for method in methods for task in method.tasks))


def published(methods: Sequence[Method]) -> dict[str, float]:
    """:data:`PUBLISHED` of the methods' goal mode, which is one; none beside other environments than Meta-World."""
    of_metaworld = all(run.simulator == METAWORLD for method in methods for run in method.runs)
    return PUBLISHED.get(methods[0].goal, {}) if of_metaworld else {}


def published_means(methods: Sequence[Method], tasks: Sequence[str]) -> dict[str, float]:
    """:func:`published` by what a figure calls it; none unless the tasks are MT10."""
    of_mt10 = set(tasks) == set(TASK_SETS["mt10"])
    return {f"{name}, published, 1,000k steps": rate for name, rate in published(methods).items() if of_mt10}


def deviation(scores: np.ndarray) -> float:
    """Standard deviation over seeds, n - 1; NaN for one."""
    return float(scores.std(ddof=1)) if len(scores) > 1 else math.nan


def caveats(methods: Sequence[Method], tasks: Sequence[str]) -> list[str]:
    """What a reader has to know about what is missing or unlike, in sentences."""
    notes = []
    for method in methods:
        for run in method.runs:
            if run.state != "finished":
                notes.append(f"{run.folder} ({method}) is {run.state}")
            if not run.evaluated:
                notes.append(f"{run.folder} ({method}) has no evaluation yet")
    for goal, rivals in by_goal(methods):
        seeds = {method.name: sorted(method.seeds(tasks)) for method in rivals}
        for method in rivals:
            for task in tasks:
                lacking = [seed for seed in seeds[method.name] if seed not in method.seeds([task])]
                if lacking:
                    notes.append(f"{method}: {task} lacks seed {', '.join(map(str, lacking))}")
        if len({len(numbers) for numbers in seeds.values()}) > 1:
            counts = ", ".join(f"{name} {len(numbers)}" for name, numbers in seeds.items())
            notes.append(f"{goal} goals: methods have different numbers of seeds: {counts}")
        last = {run.evaluated for method in rivals for run in method.runs}
        if len(last) > 1:
            notes.append(
                f"{goal} goals: last evaluations were made after different numbers of steps, "
                f"{min(last):,} to {max(last):,}: the final table compares unlike training"
            )
        notes += _unlike_machines(goal, rivals)
        single = [name for name, numbers in seeds.items() if len(numbers) == 1]
        if single:
            notes.append(f"{goal} goals: {', '.join(single)} has one seed: no interval over seeds can be given")
    return notes


def _unlike_machines(goal: str, rivals: Sequence[Method]) -> list[str]:
    """Notes of what runs that are compared were not all made with."""
    made_with = {method.name: method.made_with() for method in rivals}
    notes = []
    for name in dict.fromkeys(name for values in made_with.values() for name in values):
        values = {method: all_of[name] for method, all_of in made_with.items() if name in all_of}
        if name not in CHANGES_UNNOTICED and len({value for each in values.values() for value in each}) > 1:
            listed = ", ".join(f"{' and '.join(each)} ({method})" for method, each in values.items())
            notes.append(f"{goal} goals: runs were made with another {name}: {listed}")
    return notes
