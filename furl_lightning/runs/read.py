"""A run as it lies on disk, read for a report: what it is, how far it has come, how it was evaluated."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from furl_lightning.runs.folder import RunFolder
from furl_lightning.runs.lock import is_locked
from furl_lightning.runs.machine import read_machines
from furl_lightning.runs.metrics_csv import HEADER
from furl_lightning.tasks import METAWORLD, Agent, UnknownTask, names_among, task_names
from furl_lightning.utils.errors import BadInput

Configuration = dict[str, dict[str, Any]]
"""A run's settings by ``model`` and ``data``, nested as in its config.yaml."""
REQUIRED = ("model.vlm", "data.tasks", "data.seeds", "data.env_steps", "data.env.goal")
"""Settings without which a run cannot be read; others have defaults."""


class NoRun(BadInput):
    """A folder that holds no run of furl-fit."""


@dataclass
class Run:
    """A finished, running, stopped or resumed run."""

    folder: Path
    settings: Configuration
    agents: list[Agent]
    success: dict[Agent, dict[int, float]]
    """Success at the last step, 0 to 1, of each evaluation, by environment steps."""
    training: dict[Agent, dict[int, float]]
    """The same of each training episode, whichever agent acted."""
    reached: int
    """Environment steps of the newest row."""
    seconds: float
    """Wall time of the steps made, without those that a resumed run made twice."""
    running: bool
    machines: list[dict[str, Any]] = field(default_factory=list)
    """What its steps were made with, see :mod:`furl_lightning.runs.machine`; none where it was not recorded."""

    @property
    def goal(self) -> str:
        """The goal mode."""
        return str(self.settings["data"]["env"]["goal"])

    @property
    def simulator(self) -> str:
        """The simulator's name."""
        return simulator_of(self.settings)

    @property
    def length(self) -> int:
        """Environment steps that the run is to make."""
        return int(self.settings["data"]["env_steps"])

    @property
    def evaluated(self) -> int:
        """Environment steps of the newest evaluation, 0 where there is none."""
        return max((steps for evaluations in self.success.values() for steps in evaluations), default=0)

    @property
    def state(self) -> str:
        """In words."""
        if self.evaluated >= self.length:
            return "finished"
        return f"{'running' if self.running else 'stopped'} at {self.reached:,} of {self.length:,} steps"


def read(folder: Path) -> Run:
    """Read a run's config.yaml (of a resumed run the newest) and metrics.csv.

    Raises:
        NoRun: there is none in this folder; says what is missing.
    """
    if not folder.is_dir():
        raise NoRun(f"there is no folder {folder}")
    resolved = folder.resolve()
    config = RunFolder(resolved.parent, resolved.name).newest_config()
    metrics = folder / "metrics.csv"
    if config is None:
        if not any(folder.iterdir()):
            raise NoRun(f"{folder} is empty")
        hint = f"; give the runs in it: {folder}/*" if any(folder.glob("*/config.yaml")) else ""
        raise NoRun(f"{folder} is no run of furl-fit: it has no config.yaml{hint}")
    if not metrics.is_file():
        raise NoRun(f"{folder} has no metrics.csv yet")
    settings, agents = _read_config(folder / config.name)
    several = len({agent.seed for agent in agents}) > 1
    success: dict[Agent, dict[int, float]] = {agent: {} for agent in agents}
    training: dict[Agent, dict[int, float]] = {agent: {} for agent in agents}
    series = {
        f"{tag}/{agent if several else agent.task}": values[agent]
        for tag, values in (("eval/success", success), ("train/success", training))
        for agent in agents
    }
    reached, before, seconds = 0, 0, 0.0
    with metrics.open(newline="") as file:
        rows = csv.reader(file)
        if next(rows, None) != list(HEADER):
            raise NoRun(f"{metrics} does not begin with {','.join(HEADER)}")
        for row in rows:
            try:
                steps, tag, value = int(row[0]), row[1], float(row[2])
            except (IndexError, ValueError):  # the last row of a run that is writing
                continue
            reached = max(reached, steps)
            if tag in series:
                series[tag][steps] = value
            elif tag == "perf/env_steps_per_s" and value > 0:
                seconds += (steps - before) * len(agents) / value
                before = steps
    running, machines = is_locked(folder), read_machines(folder / "machine.yaml")
    return Run(folder, settings, agents, success, training, reached, seconds, running, machines)


def _read_config(path: Path) -> tuple[Configuration, list[Agent]]:
    """The settings, and the population that they name.

    Raises:
        NoRun: the file is no configuration of furl-fit, or one of a version with other settings.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise NoRun(f"{path} is no configuration of furl-fit: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise NoRun(f"{path} is no configuration of furl-fit: it has no settings")
    settings = {part: config.get(part) or {} for part in ("model", "data")}
    lacking = [name for name in REQUIRED if not _has(settings, name)]
    if lacking:
        raise NoRun(f"{path} is no configuration of this version of furl-fit: it has no {', '.join(lacking)}")
    data = settings["data"]
    if not isinstance(data["seeds"], list) or not isinstance(data["env_steps"], int):
        raise NoRun(f"{path} is no configuration of furl-fit: data.seeds must be a list, data.env_steps a whole number")
    try:
        tasks = task_names(data["tasks"]) if simulator_of(settings) == METAWORLD else names_among(data["tasks"], ())
    except UnknownTask as error:
        raise NoRun(f"{path}: {error}") from error
    return settings, [Agent(task, seed) for task in tasks for seed in data["seeds"]]


def simulator_of(settings: Configuration) -> str:
    """``data.env.simulator``, which runs of earlier versions do not name."""
    return str(settings["data"]["env"].get("simulator", METAWORLD))


def _has(settings: Any, name: str) -> bool:
    """Whether there is a setting with this dotted name."""
    for part in name.split("."):
        if not isinstance(settings, dict) or part not in settings:
            return False
        settings = settings[part]
    return True


OTHER_REWARDS = {"goal_baseline": ", goal baseline", "goal_distance": ", goal distance"}
"""What a method's name says of its reward, where that is not the cosine."""


def method(settings: Configuration) -> str:
    """The method's name as in the paper, from what is switched on."""
    model, data = settings["model"], settings["data"]
    source = model.get("reward", {}).get("source", "aligned")
    relay = model.get("relay", {}).get("enabled", True)
    env = data.get("env", {})
    if model["vlm"] is None:
        name = "SAC"
    elif source == "aligned" and relay:
        name = "FuRL without goal image" if data.get("goal_image") is False else "FuRL"  # null stands for true here
    elif source == "aligned":
        name = "Align"
    else:
        name = ("Relay" if relay else "VLM") + OTHER_REWARDS.get(source, "")
    if env.get("obs", "state") != "state":
        name += f", {env['obs']}"
    return name + (", dense reward" if env.get("reward") == "dense" else "")


EXTENT = (
    *("data.tasks", "data.seeds", "data.env_steps", "data.env.goal", "data.evaluation", "data.checkpoints"),
    *("data.collection.num_workers", "data.replay.storage", "model.log_every"),
)
"""Settings, or groups of them, by which runs of one method may differ: how long, how often, on what and where."""
NAMED = ("model.reward.source", "model.relay.enabled", "data.goal_image", "data.env.obs", "data.env.reward")
"""Settings that the method's name tells already."""


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; a class with its arguments is one value."""
    if not isinstance(settings, dict) or not settings or "class_path" in settings:
        return {prefix: settings}
    parts = (flat(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in settings.items())
    return {name: value for part in parts for name, value in part.items()}


def labels(runs: list[Run]) -> list[str]:
    """Names that tell methods apart: the method, and the settings in which runs of that method differ."""
    names = [method(run.settings) for run in runs]
    settings = [
        {path: _short(value) for path, value in flat(run.settings).items() if not _is_in(path, EXTENT + NAMED)}
        for run in runs
    ]
    texts = []
    for name, values in zip(names, settings, strict=True):
        alike = [others for other, others in zip(names, settings, strict=True) if other == name]
        differing = [path for path in values if any(others.get(path) != values[path] for others in alike)]
        texts.append(", ".join([name, *(f"{path.partition('.')[2]}={values[path]}" for path in differing)]))
    return texts


def _is_in(path: str, groups: tuple[str, ...]) -> bool:
    return any(path == group or path.startswith(f"{group}.") for group in groups)


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(str(argument) for argument in (value.get("init_args") or {}).values())
        return f"{value['class_path'].rsplit('.', 1)[-1]}({arguments})"
    return str(value)
