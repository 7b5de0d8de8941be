"""The options of furl-fit: each means in a YAML file what it means as a flag; the user's bugs keep their traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import EarlyStopping, Timer
from pytorch_lightning.profilers import SimpleProfiler

from furl_lightning.agents.sac import SACSettings
from furl_lightning.commands.fit import fit, prepare
from furl_lightning.commands.options import fit_parser
from furl_lightning.data.collection import CollectionSettings
from furl_lightning.method.relay import RelaySettings
from furl_lightning.training.film_log import FilmLog
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.stopping import Stopping

from .conftest import SMALL

ROOT = Path(__file__).resolve().parents[1]

EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "runs": "somewhere",
    "ckpt_path": None,
    "pictures": False,
    "allow_slow_bfloat16": True,
    "trainer": {
        "accelerator": "cpu", "devices": "auto", "precision": "bf16-mixed", "logger": False, "max_time": {"hours": 1},
        "callbacks": [{"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "x"}}],
        "enable_progress_bar": False, "deterministic": True, "benchmark": True, "profiler": "simple",
        "detect_anomaly": True,
        "plugins": [{"class_path": "pytorch_lightning.plugins.environments.LightningEnvironment"}],
    },
    "model": {
        "vlm": {"class_path": "Embedded", "init_args": {"precision": "bfloat16", "cuda_graph": False}},
        "reward": {
            "source": "goal_baseline", "rho": 0.1, "baseline_prompt": "a robot arm", "baseline_strength": 0.25,
        },
        "alignment": {"lr": 0.002, "hidden": 17, "width": 18, "margin": 0.3, "l2_margin": 0.4},
        "relay": {"enabled": False, "turns": [40, 60], "threshold": 5, "counts": "successes"},
        "sac": {
            "hidden": [19, 20, 21], "lr": 0.003, "gamma": 0.9, "tau": 0.1, "init_alpha": 0.5, "target_entropy": -1.0,
            "min_std": 0.01, "critic_layer_norm": True, "exploration_noise": 0.7, "critic_blocks": 1,
            "critic_width": 22, "critic_weight_decay": 0.1, "critic_bins": 31,
            "critic_range": [-50.0, 10.0], "critic_pair": "mean",
        },
        "updates_per_step": 2, "log_every": 30, "cuda_graph": False,
    },
    "data": {
        "tasks": ["reach", "push"], "seeds": [4, 6], "env_steps": 40,
        "prompts": {"reach": "go there", "push": "push it"},
        "goal_image": False, "goal_images": {},
        "env": {
            "goal": "random", "reward": "dense", "episode_steps": 50, "action_repeat": 5, "obs": "pixels",
            "pixel_size": 20, "render": "full", "mirror": True, "bgr": True, "camera": "above",
            "simulator": f"{__package__}.own_environments.Anything", "options": {"speed": 0.5},
        },
        "collection": {
            "start_steps": 10, "steps_per_iteration": 5, "num_workers": 1, "worker_timeout": 60, "overlap": True,
            "noise_beta": 1.0,
        },
        "replay": {"size": 600, "storage": "disk", "batch_size": 7, "success_share": 0.5, "n_step": 3},
        "memory": {"size": 700, "gap": 3, "lag_rule": "published"},
        "evaluation": {"every": 20, "episodes": 3},
        "checkpoints": {"every": 15, "keep": 4},
    },
}  # fmt: skip


def leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name; a class with its arguments, and what is no group of options, is one value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        whole = name in ("options", "goal_images") or (
            isinstance(value, dict) and {"class_path", "hours", "reach"} & set(value)
        )
        if isinstance(value, dict) and not whole:
            flat.update(leaves(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


@pytest.fixture
def torch_flags() -> Iterator[None]:
    """The trainer sets flags of the whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.autograd.set_detect_anomaly(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("torch_flags")
def test_every_option_may_stand_in_a_yaml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its value by default, each found in the run's config.yaml, and where it has its effect."""
    monkeypatch.chdir(tmp_path)
    Path("all.yaml").write_text(yaml.safe_dump(EVERYTHING))
    parser = fit_parser()
    defaults = leaves(yaml.safe_load(parser.dump(parser.get_defaults(), skip_unset=False)))
    given = leaves(EVERYTHING)
    assert set(given) == set(defaults), "an option without its line here, or a line without its option"
    unchanged = [name for name, value in given.items() if value == defaults[name]]
    assert unchanged == ["ckpt_path"]  # see the next test

    plan = prepare(["--config", "all.yaml"], Stopping())
    with plan.folder.locked():
        plan.folder.write_config(plan.config, resumes=False)
    kept = leaves(yaml.safe_load(Path("somewhere/everything/config.yaml").read_text()))
    given["model.vlm"]["class_path"] = "furl_lightning.vlm.Embedded"
    given["trainer.max_time"] = "00:01:00:00"
    assert {name: kept[name] for name in given if name not in ("trainer.callbacks", "trainer.plugins")} == {
        name: value for name, value in given.items() if name not in ("trainer.callbacks", "trainer.plugins")
    }
    module, data, trainer = plan.module, plan.data, plan.trainer
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    assert [c.pictures for c in callbacks if isinstance(c, FilmLog)] == [False]
    assert sum(isinstance(c, Timer) for c in callbacks) == 1  # of max_time
    assert [c.monitor for c in callbacks if isinstance(c, EarlyStopping)] == ["x"]
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    assert isinstance(trainer.profiler, SimpleProfiler) and trainer.loggers == []  # type: ignore[attr-defined]
    assert trainer.precision == "bf16-mixed" and torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark and trainer._detect_anomaly
    assert not any("ProgressBar" in type(c).__name__ or "StepsBar" in type(c).__name__ for c in callbacks)
    model, settings = EVERYTHING["model"], EVERYTHING["data"]
    for part, values in (
        (module.reward_settings, model["reward"]),
        (module.alignment_settings, model["alignment"]),
        (module.relay_settings, model["relay"]),
        (module.sac_settings, model["sac"]),
        (data.env_settings, settings["env"]),
        (data.collection_settings, settings["collection"]),
        (data.replay_settings, settings["replay"]),
        (data.memory_settings, settings["memory"]),
        (data.evaluation, settings["evaluation"]),
        (data.checkpoints, settings["checkpoints"]),
    ):
        assert {name: list(v) if isinstance(v, tuple) else v for name, v in vars(part).items()} == values
    assert (module.updates_per_step, module.log_every, module.cuda_graph) == (2, 30, False)
    assert module.vlm is not None and next(module.vlm.network.parameters()).dtype == torch.bfloat16
    assert [str(agent) for agent in data.agents] == ["reach/4", "reach/6", "push/4", "push/6"]
    assert (data.env_steps_total, data.goal_image, data.instructions[0]) == (40, False, "go there")


def test_name_runs_and_ckpt_path_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run lands where the file says; a flag after it wins; ``ckpt_path: last`` goes on with it."""
    monkeypatch.chdir(tmp_path)
    small = [part for key, value in SMALL.items() for part in (f"--{key}", value)]
    small += ["--config", "sac.yaml", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    sac = {"model": {"vlm": None, "reward": {"source": "task"}, "relay": {"enabled": False}}}
    Path("sac.yaml").write_text(yaml.safe_dump(sac))
    Path("where.yaml").write_text("{name: here, runs: there, pictures: false}")
    assert fit([*small, "--config", "where.yaml", "--data.env_steps", "20"]) == 0
    assert Path("there/here/checkpoints/step-000000020.ckpt").is_file() and not Path("runs").exists()
    assert fit([*small, "--config", "where.yaml", "--data.env_steps", "20", "--name", "flag"]) == 0
    assert Path("there/flag/checkpoints/step-000000020.ckpt").is_file()
    Path("again.yaml").write_text("{name: here, runs: there, ckpt_path: last, data: {env_steps: 30}}")
    assert fit(["--config", "again.yaml"]) == 0
    assert Path("there/here/checkpoints/step-000000030.ckpt").is_file()
    config = yaml.safe_load(Path("there/here/config-2.yaml").read_text())
    assert (config["name"], config["runs"], config["ckpt_path"]) == ("here", "there", None)


def test_settings_from_python_are_checked_too() -> None:
    for make, message in (
        (lambda: SACSettings(lr=0.0), "model.sac.lr must be above 0, not 0.0"),
        (lambda: SACSettings(lr=float("nan")), "model.sac.lr must be above 0, not nan"),
        (lambda: SACSettings(hidden=(16, 0)), "model.sac.hidden must be made of numbers at least 1, not 0"),
        (lambda: SACSettings(hidden=()), "model.sac.hidden must name at least one layer"),
        (lambda: RelaySettings(turns=()), "model.relay.turns must name at least one length"),
        (lambda: CollectionSettings(overlap=True), "needs data.collection.num_workers of at least 1"),
    ):
        with pytest.raises(BadInput, match=message):
            make()
    with pytest.raises(AttributeError):  # frozen
        SACSettings().lr = 1.0  # type: ignore[misc]


def test_a_callback_with_an_enumeration_among_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    timer = ["--trainer.callbacks", '[{"class_path": "Timer", "init_args": {"duration": {"days": 1}}}]']
    plan = prepare(["--config", str(ROOT / "conf/method/sac.yaml"), *timer], Stopping())
    assert "interval: step" in plan.config


# -- a VLM of the user's

MINE = """
import torch
from torch import Tensor, nn
from furl_lightning.vlm import VLM


class Mine(VLM):
    width, name, fingerprint = 4, "mine", "0" * 64

    def __init__(self, fault: str = "") -> None:
        super().__init__(nn.Linear(1, 1))
        self.fault = fault
        if fault == "init":
            len(5)  # the fault in __init__

    def encode_images(self, frames: Tensor) -> Tensor:
        if self.fault == "images":
            raise ValueError("a value")  # the fault in encode_images
        return torch.rand(len(frames), 4)

    def encode_texts(self, texts: list[str]) -> Tensor:
        if self.fault == "texts":
            self.nothing  # the fault in encode_texts
        return torch.rand(len(texts), 4)
"""
CODE = "import torch; torch.set_num_threads(1); from furl_lightning.cli import furl_fit; furl_fit()"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A folder with a VLM of the user's, and a small run's arguments there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_vlm.py").write_text(MINE)
    Path("broken_vlm.py").write_text("import a_package_that_is_not_there\n")
    small = [part for key, value in SMALL.items() for part in (f"--{key}", value)]
    quiet = ["--pictures", "false", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    yield [*small, *quiet, "--data.env_steps", "20", "--data.collection.start_steps", "10"]
    for name in ("my_vlm", "broken_vlm"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("fault", "error"), [("init", TypeError), ("images", ValueError), ("texts", AttributeError)])
def test_the_users_bug_keeps_its_traceback(fault: str, error: type[Exception], mine: list[str]) -> None:
    """Found in the current folder; the last frames are the user's file and line."""
    with pytest.raises(error) as raised:
        fit([*mine, "--model.vlm", "my_vlm.Mine", "--model.vlm.fault", fault, "--name", fault])
    lines = MINE.splitlines()
    line = next(number for number, text in enumerate(lines) if re.search(rf"the fault in (__|encode_){fault}", text))
    assert any(Path(entry.path).name == "my_vlm.py" and entry.lineno == line for entry in raised.traceback)


def test_what_a_person_sees_of_it(mine: list[str]) -> None:
    """The command itself, without PYTHONPATH: the traceback, and another status than that of bad input."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", CODE, *mine, "--model.vlm", "my_vlm.Mine"]
    done = subprocess.run(
        [*command, "--model.vlm.fault", "init", "--name", "a"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "my_vlm.py" in done.stderr and "len(5)  # the fault in __init__" in done.stderr
    assert done.stderr.strip().endswith("TypeError: object of type 'int' has no len()")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_vlm.Mine", "there is no module no_vlm in the current folder, on PYTHONPATH, or installed"),
        ("my_vlm.Other", "unknown VLM 'my_vlm.Other'; module my_vlm has no Other"),
        ("my_vlm.Tensor", "'my_vlm.Tensor' is no VLM: give a class that implements furl_lightning.vlm.VLM"),
    ],
)
def test_a_vlm_that_is_not_there(name: str, message: str, mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fit([*mine, "--model.vlm", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not Path("runs").exists()


def test_a_module_that_cannot_be_imported_says_why(mine: list[str]) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        fit([*mine, "--model.vlm", "broken_vlm.Mine"])


def test_a_vlm_of_the_users_trains(mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fit([*mine, "--model.vlm", "my_vlm.Mine", "--name", "trained"]) == 0
    config = yaml.safe_load(Path("runs/trained/config.yaml").read_text())
    assert config["model"]["vlm"] == {"class_path": "my_vlm.Mine", "init_args": {"fault": ""}}
