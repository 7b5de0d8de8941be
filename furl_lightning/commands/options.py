"""The options of ``furl-fit``: made from the classes that they are of, and read from flags and YAML files."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_dumper, set_parsing_settings
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer

from furl_lightning.commands.arguments import parse_arguments, vlm_of
from furl_lightning.commands.class_options import begin_anew
from furl_lightning.commands.class_problem import word_problem
from furl_lightning.commands.config_files import expand, find, load
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.method.learner import RewardSettings, refuse_contradictions
from furl_lightning.method.relay import RelaySettings
from furl_lightning.runs.wandb_run import as_one_run
from furl_lightning.training.module import FuRLModule
from furl_lightning.training.saved_settings import WORDS
from furl_lightning.training.single_device import single_device_trainer
from furl_lightning.utils.construct import construct
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.nearest import nearest

RUNS = "runs"
OFFERED = {
    *("accelerator", "devices", "precision", "logger", "callbacks", "enable_progress_bar", "max_time"),
    *("profiler", "deterministic", "benchmark", "detect_anomaly", "plugins"),
}
"""Lightning's options that reach something in this loop; no other is there."""
FIXED: dict[str, Any] = {
    "max_epochs": 1,  # the run's length is data.env_steps
    "enable_checkpointing": False,  # ours: training/checkpoint.py
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
INSTEAD = {
    **dict.fromkeys(["max_steps", "max_epochs", "min_steps", "min_epochs"], "the run's length is data.env_steps"),
    "limit_train_batches": "the run's length is data.env_steps",
    "fast_dev_run": "for a short run set data.env_steps",
    "log_every_n_steps": "set model.log_every, in environment steps",
    "enable_checkpointing": "checkpoints are always written, every data.checkpoints.every steps",
    "default_root_dir": "the folder is --runs and --name",
    "num_nodes": "a population trains on one device",
    "strategy": "a population trains on one device",
}
ONE_DEVICE = (
    "trainer.devices must be 1: a population trains on one device; furl-sweep spreads one over several "
    "devices and machines, see docs/cluster.md"
)
PRECISIONS = ("None", "32", "32-true", "bf16-mixed")

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Dumper(yaml.SafeDumper):
    """YAML as one would write it: a list of plain values takes one line, so that a changed list is one line too."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)


_Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))  # some are text as well
set_dumper("yaml", lambda data: yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))


@cache
def fit_parser() -> ArgumentParser:
    """The parser of ``furl-fit``; made once, which takes several times as long as to parse with it."""
    parser = ArgumentParser(
        prog="furl-fit",
        description="Train FuRL on a population of Meta-World agents.",
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode="omegaconf",
    )
    parser.add_argument(
        "--config",
        action="config",
        help="A YAML file, or a name such as mt10 or method/sac; several are laid over each other.",
    )
    parser.add_argument("--name", type=str | None, default=None, help="Name of the run (default: the configs').")
    parser.add_argument("--runs", type=str, default=RUNS, help="Folder in which runs lie, each under its name.")
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="Resume: 'last', or a checkpoint of the run. 'auto': start, or go on if there is something.",
    )
    parser.add_argument("--pictures", type=bool, default=True, help="Goal images and film strips in TensorBoard.")
    parser.add_argument(
        "--allow_slow_bfloat16",
        type=bool,
        default=False,
        help="Compute in bfloat16 as asked for, even where that is slower than float32.",
    )
    skipped = set(inspect.signature(Trainer.__init__).parameters) - OFFERED - {"self"}
    parser.add_class_arguments(Trainer, "trainer", skip=skipped, instantiate=False, fail_untyped=False)
    parser.add_class_arguments(FuRLModule, "model")
    parser.add_class_arguments(FuRLDataModule, "data")
    parser.set_defaults({"model.vlm": {"class_path": "furl_lightning.vlm.Embedded"}, "trainer.devices": 1})
    return parser


@dataclass
class FitArguments:
    """What ``furl-fit`` was called with."""

    name: str
    """Of the run."""
    runs: Path
    """Folder in which runs lie."""
    ckpt_path: str | None
    argv: list[str]
    """All arguments, where the contents of files stand in the place of these."""

    @property
    def asks_for_help(self) -> bool:
        """Whether nothing is to be trained."""
        return any(a in ("-h", "--help") or a.startswith("--print_config") for a in self.argv)


def read_arguments(argv: Sequence[str]) -> FitArguments:
    """Look for the options that say which run it is, for its folder may hold more of them; later ones win.

    Raises:
        BadInput: a file that is missing, or no configuration.
    """
    run: dict[str, Any] = {"name": None, "runs": RUNS, "ckpt_path": None}
    expanded, stems, rest = [], [], list(argv)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--")
        if name == "data.env" and (equals or rest):
            value = value if equals else rest.pop(0)
            expanded += ["--data.env.simulator" if _is_class(value) else option, value]
            continue
        if not option.startswith("--") or (name != "config" and name not in run) or not (equals or rest):
            expanded.append(argument)
            continue
        value = value if equals else rest.pop(0)
        if name != "config":
            run[name] = None if value == "null" else value
            expanded += [option, value]
            continue
        stems.append(find(value).stem)
        for file in expand([value]):
            settings = load(file)
            data = settings.get("data")
            if isinstance(data, dict) and _is_class(data.get("env")):
                settings["data"] = {**data, "env": {"simulator": data["env"]}}
            run.update({key: settings[key] for key in run if key in settings})
            expanded += ["--config", yaml.safe_dump(settings)]
    name = "-".join(stems) or "furl" if run["name"] is None else str(run["name"])
    return FitArguments(name, Path(str(run["runs"])), run["ckpt_path"], expanded)


def _is_class(value: Any) -> bool:
    """Whether what stands for the group ``data.env`` is a simulator's name or import path."""
    return isinstance(value, str) and all(part.isidentifier() for part in value.split(".")) and value != "null"


def parse_fit(argv: Sequence[str]) -> tuple[ArgumentParser, Namespace]:
    """Parse the arguments of ``furl-fit``, whose files have been read; nothing is made.

    Raises:
        BadInput: an option that does not exist, or a value that cannot be.
    """
    parser = fit_parser()
    config = parse_arguments(parser, begin_anew(argv), _explain)
    devices = config.trainer.devices
    if (isinstance(devices, int) and devices > 1) or (isinstance(devices, list) and len(devices) > 1):
        raise BadInput(ONE_DEVICE)
    for option, words in WORDS.items():
        if problem := word_problem(option, config[option], words):
            raise BadInput(problem)
    if str(config.trainer.precision) not in PRECISIONS:
        raise BadInput(
            f"trainer.precision must be 32-true or bf16-mixed, not {config.trainer.precision}: float16 would need "
            "scaled losses, and parameters must stay in float32"
        )
    if isinstance(config.trainer.max_time, dict):  # config.yaml would hold Python's text of it
        minutes, seconds = divmod(round(timedelta(**config.trainer.max_time).total_seconds()), 60)
        hours, minutes = divmod(minutes, 60)
        config.trainer.max_time = f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"
    return parser, config


def _explain(option: str, options: Sequence[str]) -> str:
    """What is wrong with an option that does not exist."""
    group, _, name = option.partition(".")
    if group == "trainer" and name in inspect.signature(Trainer.__init__).parameters:
        return f"{option} has no effect here; leave it out ({INSTEAD.get(name, 'see --help')})"
    if option == "seed_everything":
        return "seed_everything has no effect here: each agent is seeded by its own; give --data.seeds"
    return f"unknown option '{option}'; the nearest is '{nearest(option, options)}'"


def make_data(config: Namespace) -> FuRLDataModule:
    """The data module of a configuration.

    Raises:
        BadInput: a value that cannot be.
    """
    data: FuRLDataModule = construct(FuRLDataModule, config.data)
    return data


def make_module(config: Namespace) -> FuRLModule:
    """The module of a configuration, with its VLM, which may be large.

    Raises:
        BadInput: a value that cannot be, or a VLM that cannot be used.
    """
    refuse_contradictory_model(config)  # before the VLM is loaded
    module: FuRLModule = construct(FuRLModule, config.model, vlm=vlm_of(config.model.vlm))
    return module


def refuse_contradictory_model(config: Namespace) -> None:
    """Check the model's settings as far as that goes without its VLM.

    Raises:
        BadInput: a value that cannot be, or values that contradict each other.
    """
    reward = construct(RewardSettings, config.model.reward)
    refuse_contradictions(config.model.vlm is not None, reward, construct(RelaySettings, config.model.relay))


def make_trainer(config: Namespace, resumes: bool = False) -> Trainer:
    """Lightning's trainer of a configuration, whose run goes on or begins.

    Raises:
        BadInput: it would train on several devices, or has a plugin for a job of several processes; there is no such
            device here, or a logger's package is not installed.
    """
    folder = Path(str(config.runs)) / str(config.name)
    try:
        logger = as_one_run(config.trainer.logger, folder, resumes)
        trainer = single_device_trainer({**vars(config.trainer), **FIXED, "logger": logger}, folder)
    except MisconfigurationException as error:
        raise BadInput(f"trainer: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is not None:  # an import failed, not Lightning's look at what is installed
            raise
        raise BadInput(f"trainer: {error}") from error
    if trainer.num_devices != 1:
        raise BadInput(ONE_DEVICE)
    return trainer


def check(argv: Sequence[str]) -> FuRLDataModule:
    """The data module that ``furl-fit`` would make; all arguments are parsed, and nothing is written or loaded.

    Raises:
        BadInput: furl-fit would refuse them.
    """
    _, config = parse_fit(read_arguments(argv).argv)
    refuse_contradictory_model(config)
    return make_data(config)
