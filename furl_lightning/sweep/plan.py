"""A sweep: methods x goal modes x tasks x seeds, cut into trials."""

from __future__ import annotations

import itertools
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from furl_lightning.commands.config_files import expand, load
from furl_lightning.commands.options import check
from furl_lightning.envs.simulator import GoalMode
from furl_lightning.envs.simulators import task_names
from furl_lightning.sweep.trial import Trial
from furl_lightning.tasks import METAWORLD
from furl_lightning.utils.errors import BadInput


@dataclass
class Sweep:
    """What a sweep file says.

    Args:
        methods: configuration files of furl-fit for each method, each laid over those before it.
        goals: goal modes.
        tasks: the simulator's tasks, or sets of Meta-World's, as in data.tasks.
        seeds: each method is trained with every one, in every goal mode, on every task.
        agents_per_trial: agents (task and seed) that one furl-fit trains, at most.
        common: configuration files under those of all methods.
        settings: settings of furl-fit over those of all methods, as in a configuration file.
        cpus: CPUs of a trial, in Ray's counting; its threads too.
        gpus: GPUs of a trial; 0.25 puts four trials on one.
        retries: how often a trial may be lost or fail before it is given up.
        runs: folder in which sweeps lie, each under its name; all nodes see it, unless there is a storage.
        storage: fsspec URL, such as s3://bucket/sweeps, through which trials' folders go from node to node.
        name: of the sweep (default: the sweep file's).
    """

    methods: dict[str, list[str]]
    goals: list[GoalMode] = field(default_factory=lambda: ["fixed"])
    tasks: str | list[str] = "mt10"
    seeds: list[int] = field(default_factory=lambda: [0])
    agents_per_trial: int = 10
    common: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    runs: str = "runs"
    storage: str | None = None
    name: str | None = None

    def trials(self) -> list[Trial]:
        """The sweep's trials, methods inmost, so that what is to be compared is trained at one time.

        Raises:
            BadInput: something in the sweep, or in a configuration that it names, cannot be.
        """
        self._refuse_values()
        common = _texts(self.common, "common")
        texts = {method: common + _texts(paths, f"methods.{method}") for method, paths in self.methods.items()}
        try:
            names = task_names(_simulator([*next(iter(texts.values())), yaml.safe_dump(self.settings)]), self.tasks)
        except BadInput as error:
            raise BadInput(f"tasks: {error}") from error
        lengths = {method: self._length(method, names, texts[method]) for method in self.methods}
        trials = []
        for tasks, seeds in shares(names, self.seeds, self.agents_per_trial):
            for method, goal in itertools.product(self.methods, self.goals):
                part = f"{_span([*tasks])}-seed{_span([*map(str, seeds)])}"
                configs = (*texts[method], *self._over(goal, tasks, seeds))
                trials.append(Trial(f"{method}-{goal}-{part}", method, goal, tasks, seeds, lengths[method], configs))
        return trials

    def _refuse_values(self) -> None:
        if not self.methods:
            raise BadInput("methods is empty; name at least one, e.g. methods: {furl: []}")
        for method in self.methods:
            if not re.fullmatch(r"[A-Za-z0-9_.]+", method) or method.startswith("."):
                raise BadInput(f"a method's name is made of letters, digits, _ and ., not '{method}'")
        lists: dict[str, list[Any]] = dict(goals=self.goals, seeds=self.seeds)
        for name, values in lists.items():
            if not values:
                raise BadInput(f"{name} is empty; give at least one")
            if len(set(values)) < len(values):
                raise BadInput(f"{name} has one twice: {', '.join(map(str, values))}")
        if self.agents_per_trial < 1:
            raise BadInput(f"agents_per_trial must be at least 1, not {self.agents_per_trial}")
        if self.cpus <= 0:
            raise BadInput(f"cpus must be above 0, not {self.cpus:g}")
        for name, value in dict(cpus=self.cpus, gpus=self.gpus).items():
            if value < 0 or (value > 1 and value != int(value)):
                raise BadInput(f"{name} must be a share below 1 or a whole number, not {value:g}")
        if self.gpus > 1:
            raise BadInput(f"gpus must be at most 1, not {self.gpus:g}: a trial trains on one device")
        if self.retries < 0:
            raise BadInput(f"retries must not be negative, but is {self.retries}")

    def _over(self, goal: str, tasks: tuple[str, ...], seeds: tuple[int, ...]) -> list[str]:
        """What is laid over a method's configuration: settings of the sweep's, and the trial's share."""
        share = {"data": {"env": {"goal": goal}, "tasks": list(tasks), "seeds": list(seeds)}}
        return [yaml.safe_dump(settings) for settings in (self.settings, share) if settings]

    def _length(self, method: str, tasks: list[str], texts: list[str]) -> int:
        """Environment steps of a method's runs, by a furl-fit that only checks its configuration."""
        argv = []
        with tempfile.TemporaryDirectory() as folder:
            for number, text in enumerate([*texts, *self._over(self.goals[0], tuple(tasks), tuple(self.seeds))]):
                path = Path(folder) / f"{number}.yaml"
                path.write_text(text)
                argv += ["--config", str(path)]
            try:
                return check(argv).env_steps_total
            except BadInput as error:
                raise BadInput(f"method {method}: {error}") from error


def shares(tasks: list[str], seeds: list[int], size: int) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Cut tasks x seeds into products of at most ``size`` agents: whole seeds, or else parts of one."""
    if size >= len(tasks):
        whole = size // len(tasks)
        return [(tuple(tasks), tuple(seeds[i : i + whole])) for i in range(0, len(seeds), whole)]
    return [(tuple(tasks[i : i + size]), (seed,)) for seed in seeds for i in range(0, len(tasks), size)]


def _simulator(texts: list[str]) -> str:
    """``data.env.simulator`` of settings that are laid over each other, as YAML texts."""
    simulator = METAWORLD
    for text in texts:
        settings: Any = yaml.safe_load(text)
        for name in ("data", "env", "simulator"):
            settings = settings.get(name) if isinstance(settings, dict) else None
        simulator = settings if isinstance(settings, str) else simulator
    return simulator


def _span(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{parts[0]}-to-{parts[-1]}"


def _texts(paths: list[str], option: str) -> list[str]:
    """The files, and those that they are based on, as YAML texts to be laid over each other."""
    try:
        return [yaml.safe_dump(load(path)) for path in expand(paths)]
    except BadInput as error:
        raise BadInput(f"{option}: {error}") from error
