"""Runs put side by side: learning curves, final success with intervals, sample efficiency, wall clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from furl_lightning.analysis.intervals import Interval, interquartile_mean, stratified_bootstrap, task_mean
from furl_lightning.runs.read import Run
from furl_lightning.tasks import Agent

LEVELS = (0.5, 0.8)
"""Success rates whose first time is told."""
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


class Mixed(ValueError):
    """Runs whose populations cannot be compared."""


@dataclass
class Curve:
    """Success against environment steps, where all its seeds have a value; S steps."""

    steps: list[int]
    mean: list[float]
    band: list[Interval | None]

    def reaches(self, level: float) -> int | None:
        """The first evaluation with at least this success."""
        return next((s for s, m in zip(self.steps, self.mean, strict=True) if m >= level), None)


@dataclass
class Method:
    """All runs of one name and goal mode."""

    name: str
    goal: str
    runs: list[Run] = field(default_factory=list)

    def agents(self, task: str | None = None) -> list[Agent]:
        """Its population, of one task or all."""
        return [agent for run in self.runs for agent in run.agents if task in (None, agent.task)]

    def success(self, agent: Agent) -> dict[int, float]:
        """An agent's evaluations."""
        return self._run(agent).success[agent]

    def training(self, agent: Agent) -> dict[int, float]:
        """At an agent's evaluations, the share in success of its training episodes since the one before."""
        run = self._run(agent)
        shares, before = {}, 0
        for steps in sorted(run.success[agent]):
            ended = [value for at, value in run.training[agent].items() if before < at <= steps]
            if ended:
                shares[steps] = float(np.mean(ended))
            before = steps
        return shares

    def _run(self, agent: Agent) -> Run:
        return next(run for run in self.runs if agent in run.success)

    def final(self, task: str) -> np.ndarray:
        """Success of each seed at its run's last evaluation; of those that have one."""
        found = [self.success(agent) for agent in self.agents(task)]
        return np.array([evaluations[max(evaluations)] for evaluations in found if evaluations])

    def curve(self, tasks: Sequence[str], training: bool = False) -> Curve:
        """Mean success over some tasks, with a stratified bootstrap band: of evaluations, or of training episodes."""
        of = self.training if training else self.success
        strata = [[of(agent) for agent in self.agents(task)] for task in tasks]
        started = [[e for e in stratum if e] for stratum in strata]
        every = [set(evaluations) for stratum in started for evaluations in stratum]
        if not all(started) or not every:
            return Curve([], [], [])
        steps = sorted(set.intersection(*every))
        scores = [[np.array([e[step] for e in stratum]) for stratum in started] for step in steps]
        return Curve(
            steps,
            [float(task_mean(at)) for at in scores],
            [stratified_bootstrap(at, task_mean, CURVE_RESAMPLES) for at in scores],
        )


@dataclass
class Aggregate:
    """Over all tasks and seeds, at the last evaluations."""

    mean: float
    mean_95: Interval | None
    interquartile_mean: float
    interquartile_mean_95: Interval | None


def group(runs: Sequence[Run], names: Sequence[str], tasks: Sequence[str] | None = None) -> list[Method]:
    """Runs of one name and goal mode together.

    Raises:
        Mixed: an agent occurs twice in a method, or methods have other tasks than their neighbours.
    """
    methods: dict[tuple[str, str], Method] = {}
    for run, name in zip(runs, names, strict=True):
        methods.setdefault((name, run.goal), Method(name, run.goal)).runs.append(run)
    for found in methods.values():
        owner: dict[Agent, Run] = {}
        for run in found.runs:
            for agent in run.agents:
                if agent in owner:
                    raise Mixed(
                        f"mixed populations: {owner[agent].folder} and {run.folder} both have {agent} of "
                        f"{found.name} ({found.goal} goals); give one of them, or tell them apart with --label"
                    )
                owner[agent] = run
    for goal in {found.goal for found in methods.values()}:
        rivals = [found for found in methods.values() if found.goal == goal]
        own = [list(dict.fromkeys(agent.task for agent in found.agents())) for found in rivals]
        shared = [task for task in own[0] if all(task in others for others in own)]
        if tasks is None and any(set(others) != set(shared) for others in own):
            listed = "; ".join(f"{found.name} has {', '.join(t)}" for found, t in zip(rivals, own, strict=True))
            hint = f"compare what they share with --tasks {' '.join(shared)}" if shared else "they share none"
            raise Mixed(f"mixed populations ({goal} goals): {listed}; {hint}")
        for found, others in zip(rivals, own, strict=True):
            missing = [task for task in tasks or [] if task not in others]
            if missing:
                raise Mixed(f"mixed populations ({goal} goals): {found.name} has no {', '.join(missing)}")
    return list(methods.values())


def tasks_of(methods: Sequence[Method]) -> list[str]:
    """Their tasks, in the order of the first."""
    return list(dict.fromkeys(agent.task for found in methods for agent in found.agents()))


def aggregate(found: Method, tasks: Sequence[str]) -> Aggregate | None:
    """Mean and interquartile mean (rliable's definitions); None where a task has no evaluation."""
    strata = [found.final(task) for task in tasks]
    if not all(len(stratum) for stratum in strata):
        return None
    return Aggregate(
        float(task_mean(strata)),
        stratified_bootstrap(strata, task_mean),
        float(interquartile_mean(strata)),
        stratified_bootstrap(strata, interquartile_mean),
    )


def deviation(scores: np.ndarray) -> float:
    """Standard deviation over seeds, n - 1; NaN for one."""
    return float(scores.std(ddof=1)) if len(scores) > 1 else math.nan


def missing(methods: Sequence[Method], tasks: Sequence[str]) -> list[str]:
    """What a reader has to know is not there, in sentences."""
    told = []
    for found in methods:
        for run in found.runs:
            if run.state != "finished":
                told.append(f"{run.folder} ({found.name}, {found.goal} goals) is {run.state}")
            if not run.evaluated:
                told.append(f"{run.folder} ({found.name}, {found.goal} goals) has no evaluation yet")
    for goal in dict.fromkeys(found.goal for found in methods):
        rivals = [found for found in methods if found.goal == goal]
        seeds = {found.name: sorted({a.seed for t in tasks for a in found.agents(t)}) for found in rivals}
        for found in rivals:
            for task in tasks:
                lacking = [s for s in seeds[found.name] if Agent(task, s) not in found.agents(task)]
                if lacking:
                    told.append(f"{found.name}, {goal} goals: {task} lacks seed {', '.join(map(str, lacking))}")
        if len({len(own) for own in seeds.values()}) > 1:
            counts = ", ".join(f"{name} {len(own)}" for name, own in seeds.items())
            told.append(f"{goal} goals: methods have different numbers of seeds: {counts}")
        last = {run.evaluated for found in rivals for run in found.runs}
        if len(last) > 1:
            told.append(
                f"{goal} goals: last evaluations were made after different numbers of steps, "
                f"{min(last):,} to {max(last):,}: the final table compares unlike training"
            )
        single = [name for name, own in seeds.items() if len(own) == 1]
        if single:
            told.append(f"{goal} goals: {', '.join(single)} has one seed: no interval over seeds can be given")
    return told
