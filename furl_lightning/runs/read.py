"""A run as it lies on disk, read for a report: what it is, how far it has come, how it was evaluated."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from furl_lightning.runs.folder import is_locked
from furl_lightning.runs.metrics_csv import HEADER
from furl_lightning.tasks import Agent, task_names

Settings = dict[str, dict[str, Any]]
"""A run's arguments by ``model`` and ``data``, as in its config.yaml."""


class NoRun(ValueError):
    """A folder that holds no run of furl-fit."""


@dataclass
class Run:
    """A finished, running, stopped or resumed run."""

    folder: Path
    settings: Settings
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

    @property
    def goal(self) -> str:
        """The goal mode."""
        return str(self.settings["data"]["goal"])

    @property
    def length(self) -> int:
        """Environment steps that the run is to make."""
        return int(self.settings["data"]["env_steps"])

    @property
    def evaluated(self) -> int:
        """Environment steps of the newest evaluation, 0 where there is none."""
        return max((steps for found in self.success.values() for steps in found), default=0)

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
    configs = sorted(folder.glob("config*.yaml"), key=lambda path: (len(path.name), path.name))
    metrics = folder / "metrics.csv"
    if not configs:
        if not any(folder.iterdir()):
            raise NoRun(f"{folder} is empty")
        hint = f"; give the runs in it: {folder}/*" if any(folder.glob("*/config.yaml")) else ""
        raise NoRun(f"{folder} is no run of furl-fit: it has no config.yaml{hint}")
    if not metrics.is_file():
        raise NoRun(f"{folder} has no metrics.csv yet")
    try:
        written = yaml.safe_load(configs[-1].read_text())
        settings = {part: dict(written[part]) for part in ("model", "data")}
        data = settings["data"]
        agents = [Agent(task, int(seed)) for task in task_names(data["tasks"]) for seed in data["seeds"]]
        _ = data["goal"], int(data["env_steps"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise NoRun(f"{configs[-1]} is no configuration of furl-fit: {' '.join(str(error).split())}") from error
    several = len(data["seeds"]) > 1
    success: dict[Agent, dict[int, float]] = {agent: {} for agent in agents}
    training: dict[Agent, dict[int, float]] = {agent: {} for agent in agents}
    tags = {
        f"{tag}/{agent if several else agent.task}": found[agent]
        for tag, found in (("eval/success", success), ("train/success", training))
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
            if tag in tags:
                tags[tag][steps] = value
            elif tag == "perf/env_steps_per_s" and value > 0:
                seconds += (steps - before) * len(agents) / value
                before = steps
    return Run(folder, settings, agents, success, training, reached, seconds, is_locked(folder / ".lock"))


def method(settings: Settings) -> str:
    """The method's name as the paper has it, from what is switched on."""
    model, data = settings["model"], settings["data"]
    reward, relay = model.get("reward", "aligned"), model.get("relay", True)
    if model["vlm"] is None:
        name = "SAC"
    elif reward == "aligned" and relay:
        name = "FuRL without goal image" if data["goal_image"] is False else "FuRL"  # null stands for true here
    elif reward == "aligned":
        name = "Align"
    else:
        name = ("Relay" if relay else "VLM") + (", goal baseline" if reward == "goal_baseline" else "")
    if data.get("obs", "state") != "state":
        name += f", {data['obs']}"
    return name + (", dense reward" if data["reward"] == "dense" else "")


LENGTHS = (
    *("tasks", "seeds", "goal", "env_steps", "eval_every", "eval_episodes"),
    *("save_every", "save_top_k", "num_workers", "log_every", "replay_storage"),
)
"""Settings by which runs of one method may differ."""
NAMED = ("reward", "relay", "goal_image", "obs")
"""Settings that the method's name tells already."""


def labels(runs: list[Run]) -> list[str]:
    """Names that tell methods apart: the method, and the settings in which runs of that name differ."""
    flat = [
        {
            name: _short(value)
            for part in run.settings.values()
            for name, value in part.items()
            if name not in LENGTHS + NAMED
        }
        for run in runs
    ]
    names = [method(run.settings) for run in runs]
    found = []
    for name, own in zip(names, flat, strict=True):
        alike = [other for other_name, other in zip(names, flat, strict=True) if other_name == name]
        differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        found.append(", ".join([name, *(f"{key}={own[key]}" for key in differing)]))
    return found


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(str(argument) for argument in (value.get("init_args") or {}).values())
        return f"{value['class_path'].rsplit('.', 1)[-1]}({arguments})"
    return str(value)
