"""What a run is made with: kept, compared on resuming, shown in reports; and the lowest versions admitted."""

from __future__ import annotations

import platform
import re
import runpy
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from furl_lightning import __version__
from furl_lightning.commands.report import report
from furl_lightning.envs.rendering import renderer_name
from furl_lightning.runs.machine import read_machines, write_machine
from furl_lightning.training.checkpoint import load_checkpoint

from .conftest import Run, assert_same

ROOT = Path(__file__).parent.parent


def rewrite(checkpoint: Path, machine: dict[str, str] | None) -> None:
    """Have a checkpoint say that it was made with something else, or nothing."""
    saved = load_checkpoint(checkpoint)
    del saved["machine"]
    torch.save(saved if machine is None else {**saved, "machine": machine}, checkpoint)


def test_versions_are_kept_compared_and_shown(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("a", data__env_steps=50)
    last = tmp_path / "a/checkpoints/last.ckpt"
    machine = load_checkpoint(last)["machine"]
    assert machine["mujoco"] == metadata.version("mujoco") and machine["torch"] == metadata.version("torch")
    assert machine["furl_lightning"] == __version__ and machine["python"] == platform.python_version()
    assert machine["device"] == "cpu" and machine["renderer"] == renderer_name()
    assert yaml.safe_load((tmp_path / "a/machine.yaml").read_text()) == [{"env_steps": 0, **machine}]

    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = {**machine, "mujoco": "2.9.9", "renderer": "a dream", "python": "3.1.0"}
    rewrite(last, before)
    write_machine(tmp_path / "a/machine.yaml", 0, before)
    capsys.readouterr()
    resumed = run("a", "--ckpt_path", "last", data__env_steps=100)
    assert resumed["machine"] == machine
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning: the run goes on with" in line]
    assert f"mujoco {machine['mujoco']} (before: 2.9.9), renderer {machine['renderer']} (before: a dream);" in warning
    assert "python" not in warning and "torch" not in warning
    entries = yaml.safe_load((tmp_path / "a/machine.yaml").read_text())
    assert entries == [{"env_steps": 0, **before}, {"env_steps": 50, **machine}]

    start = tmp_path / "b/checkpoints/step-000000000.ckpt"
    rewrite(start, None)
    assert_same(
        run("b", "--ckpt_path", str(start), data__env_steps=100), resumed, ignore=("metrics", "callbacks", "journal")
    )
    assert "warning" not in capsys.readouterr().err
    events = EventAccumulator(str(tmp_path / "b")).Reload()
    assert [event.step for event in events.Scalars("eval/success")] == [100]  # what was logged at 50 has been given up
    assert (
        report([str(tmp_path / "a"), str(tmp_path / "b"), "--label", "A=a", "B=b", "--out", str(tmp_path / "r")]) == 0
    )
    page = (tmp_path / "r/index.html").read_text()
    for row in (
        ["mujoco", f"2.9.9, {machine['mujoco']}", machine["mujoco"]],
        ["torch", machine["torch"], machine["torch"]],
    ):
        assert "".join(f"<td>{cell}</td>" for cell in row) in page
    notes = capsys.readouterr().err
    assert f"runs were made with another mujoco: 2.9.9 and {machine['mujoco']} (A), {machine['mujoco']} (B)" in notes
    assert "another torch" not in notes and "another python" not in notes


def test_steps_that_were_given_up_have_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    for env_steps, version in ((0, "1"), (50, "2"), (90, "3"), (50, "4")):
        write_machine(path, env_steps, {"mujoco": version})
    assert read_machines(path) == [{"env_steps": 0, "mujoco": "1"}, {"env_steps": 50, "mujoco": "4"}]
    for text in ("[", "a: 1", "[1, {}]", "\0"):
        path.write_text(text)
        assert read_machines(path) == []


def test_lower_bounds_are_the_versions_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tox -e lowest`` installs tests/lowest.txt; setup.py admits nothing below it."""
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    runpy.run_path(str(ROOT / "setup.py"))
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "tests/lowest.txt").read_text(), re.MULTILINE))
    extras = [arguments["extras_require"][name] for name in ("test", "notebooks", "video")]
    requirements = [Requirement(text) for texts in (arguments["install_requires"], *extras) for text in texts]
    assert [requirement.name for requirement in requirements] == list(pins)
    for requirement in requirements:
        bound = re.search(r"[>=]=([\d.]+)", str(requirement.specifier))
        assert bound is not None, requirement
        assert Version(bound.group(1).rstrip(".")) == Version(pins[requirement.name]), requirement
