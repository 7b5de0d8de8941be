"""The record of what a run was made with: ``machine.yaml``, an entry for each start and resumption.

Bits depend on all of it, and MuJoCo and what draws also on what an agent sees and how its world moves.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from furl_lightning import __version__
from furl_lightning.utils.durable import write_file

LIBRARIES = (
    "torch", "torchrl", "tensordict", "pytorch-lightning", "metaworld", "mujoco", "fast-simplification", "transformers",
    "numpy",
)  # fmt: skip
CHANGES_UNNOTICED = ("python", "numpy")
"""Recorded, but their releases are no reason to expect other numbers."""

Machine = dict[str, str]
"""Versions by name, and ``device`` and ``renderer``; one that draws nothing has no renderer."""


def this_machine(device: str, renderer: str | None) -> Machine:
    """What this process computes with.

    Args:
        device: the name of what trains.
        renderer: the name of what draws, None where nothing is drawn.
    """
    machine = {"furl_lightning": __version__, "python": platform.python_version()}
    machine.update({name: metadata.version(name) for name in LIBRARIES})
    machine["device"] = device
    return machine if renderer is None else {**machine, "renderer": renderer}


def changes(before: Mapping[str, str], now: Machine) -> str:
    """What is another now than before, in words: ``mujoco 3.5.0 (before: 3.3.0)``; what either lacks is left out."""
    return ", ".join(
        f"{name} {now[name]} (before: {before[name]})"
        for name in now
        if name in before and name not in CHANGES_UNNOTICED and before[name] != now[name]
    )


def write_machine(path: Path, env_steps: int, machine: Machine) -> None:
    """Add what makes the steps from ``env_steps`` on; steps that an earlier entry made after these have been given up.

    Raises:
        OSError: the disk is full or the like; the file is as it was.
    """
    entries = [entry for entry in read_machines(path) if entry["env_steps"] < env_steps]
    text = yaml.safe_dump([*entries, {"env_steps": env_steps, **machine}], sort_keys=False)
    write_file(path, lambda part: part.write_text(text))


def read_machines(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``machine.yaml``, by rising ``env_steps``; none where there is no such file, or another."""
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return []
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("env_steps"), int)]
