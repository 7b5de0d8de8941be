"""``furl-fit``: Lightning's command line for FuRL, runs in folders, and errors in one line."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, set_dumper
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from furl_lightning import vlm
from furl_lightning.checkpoint import Checkpoints
from furl_lightning.data import FuRLDataModule
from furl_lightning.evaluation import Evaluation
from furl_lightning.fleet import WorkerError
from furl_lightning.journal import DamagedFile
from furl_lightning.metrics_csv import MetricsCSV
from furl_lightning.module import Diverged, FuRLModule, OtherRun
from furl_lightning.progress import Progress
from furl_lightning.rendering import NoGL, close_gl, gl_context
from furl_lightning.run_folder import FolderRefused, RunFolder

TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "max_epochs": 1,  # the run's length is data.env_steps
    "enable_checkpointing": False,  # ours: furl_lightning/checkpoint.py
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class _Dumper(yaml.SafeDumper):
    """YAML as one would write it: a list of plain values takes one line, so that a changed list is one line too."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)


set_dumper("yaml", lambda data: yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))


class FitCLI(LightningCLI):
    """Lightning's command line with ``--name``, ``--runs`` and ``--ckpt_path``."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises instead of printing its usage."""
        return super().init_parser(**{**kwargs, "exit_on_error": False})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's own options."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run (default: the configs').")
        parser.add_argument("--runs", type=str, default="runs", help="Folder in which runs lie, each under its name.")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Resume: 'last', or a checkpoint of the run."
        )
        parser.set_defaults({"model.vlm": {"class_path": "furl_lightning.vlm.Embedded"}})


class BadInput(Exception):
    """What the user gave cannot be used; the message is one line."""


def fit(argv: Sequence[str] | None = None) -> int:
    """``furl-fit``: train, or resume training; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _quiet()
    try:
        return _fit(argv)
    except BadInput as error:
        print(f"furl-fit: {error}", file=sys.stderr)
        return 2
    finally:
        close_gl()


def _fit(argv: list[str]) -> int:
    try:
        folder, checkpoint, cli = _prepare(argv)
    except (ArgumentError, TypeError, ValueError, OSError, NoGL) as error:
        raise BadInput(_one_line(error)) from error
    module, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(module, FuRLModule) and isinstance(data, FuRLDataModule)
    checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    try:
        folder.lock()
        cli.parser.save(cli.config, _config_path(folder), skip_none=False)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
    except (OtherRun, DamagedFile, FolderRefused, NoGL, WorkerError) as error:
        raise BadInput(_one_line(error)) from error
    except Diverged as error:
        before = (
            f"the last checkpoint is of step {checkpoints.saved_steps}" if checkpoints.saved_steps else "none is saved"
        )
        print(f"\nfurl-fit: {error}; {before}", file=sys.stderr)
        return 1
    if checkpoints.stop_signal is not None:
        resume = [*_without(argv, "--ckpt_path", "--name"), "--name", folder.path.name, "--ckpt_path", "last"]
        print(
            f"\nstopped by {checkpoints.stop_signal.name} after {data.env_steps:,} environment steps, all saved in "
            f"{folder.checkpoints / 'last.ckpt'}; go on with:\n  furl-fit {shlex.join(resume)}",
            file=sys.stderr,
        )
        return 128 + int(checkpoints.stop_signal)
    return 0


def _prepare(argv: list[str]) -> tuple[RunFolder, Path | None, FitCLI]:
    """Parse and check everything; writes nothing."""
    name = _value(argv, "--name") or _name_of(argv)
    folder = RunFolder(Path(_value(argv, "--runs") or "runs"), name)
    asked = _value(argv, "--ckpt_path")
    checkpoint = None
    helping = any(a in ("-h", "--help") or a.startswith("--print_config") for a in argv)
    if asked:
        checkpoint = folder.checkpoint(asked)
        if folder.config.exists():  # a resumed run starts from its own configuration
            argv = ["--config", str(folder.config), *argv]
    elif not helping:
        folder.refuse_if_taken()
    cli = FitCLI(
        FuRLModule,
        FuRLDataModule,
        args=argv,
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
        trainer_defaults=TRAINER_DEFAULTS,
        parser_kwargs={"parser_mode": "omegaconf", "description": "Train FuRL on a population of Meta-World agents."},
    )
    data, trainer = cli.datamodule, cli.trainer
    assert isinstance(data, FuRLDataModule)
    if trainer.num_devices != 1:
        raise ValueError("trainer.devices must be 1: a population trains on one device; split it into several runs")
    assert isinstance(cli.model, FuRLModule)
    data.prepare_for(cli.model)
    data.run_folder = folder.path
    resumed_steps = None
    if checkpoint is not None:
        saved = _load(checkpoint)
        resumed_steps = int(saved["FuRLDataModule"]["env_steps"])
        cli.model.refuse_other_run(saved, data)
        data.restored_from = checkpoint.parent
        if data.env_steps_total <= resumed_steps:
            raise ValueError(
                f"{checkpoint} has {resumed_steps} environment steps already; "
                f"to go on, give a larger --data.env_steps than {data.env_steps_total}"
            )
    if data.settings.render is not None:
        gl_context()
    trainer.callbacks.extend([Evaluation(), Checkpoints(folder.checkpoints)])  # type: ignore[attr-defined]
    if cli.config["trainer"]["enable_progress_bar"] is not False:
        trainer.callbacks[:] = [c for c in trainer.callbacks if "ProgressBar" not in type(c).__name__]  # type: ignore[attr-defined]
        trainer.callbacks.append(Progress())  # type: ignore[attr-defined]
    if cli.config["trainer"]["logger"] is None:
        purge = None if resumed_steps is None else resumed_steps + 1
        trainer.loggers = [
            TensorBoardLogger(folder.path.parent, name=folder.path.name, version="", purge_step=purge),
            MetricsCSV(folder.metrics, resumed_steps),
        ]
    return folder, checkpoint, cli


def _load(checkpoint: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        saved["FuRLDataModule"]["env_steps"]
        return saved
    except Exception:
        older = sorted(p for p in checkpoint.parent.glob("step-*.ckpt") if not p.samefile(checkpoint))
        hint = f"; the one before it is {older[-1]}" if older else ""
        raise DamagedFile(f"{checkpoint} is damaged or no checkpoint of furl-fit{hint}") from None


def _config_path(folder: RunFolder) -> Path:
    """config.yaml, or, where a resumed run has one already, the next free name beside it."""
    path, number = folder.config, 1
    while path.exists():
        number += 1
        path = folder.path / f"config-{number}.yaml"
    return path


def _value(argv: list[str], option: str) -> str | None:
    """An option's value, needed before the parser is made."""
    value = None
    for i, argument in enumerate(argv):
        if argument == option and i + 1 < len(argv):
            value = argv[i + 1]
        elif argument.startswith(f"{option}="):
            value = argument.split("=", 1)[1]
    return value


def _without(argv: list[str], *options: str) -> list[str]:
    kept, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument in options:
            skip = True
        elif not argument.startswith(tuple(f"{option}=" for option in options)):
            kept.append(argument)
    return kept


def _name_of(argv: list[str]) -> str:
    configs = [argv[i + 1] for i, a in enumerate(argv[:-1]) if a == "--config"]
    configs += [a.split("=", 1)[1] for a in argv if a.startswith("--config=")]
    return "-".join(Path(config).stem for config in configs) or "furl"


def _one_line(error: BaseException) -> str:
    """An error as one line, with the nearest valid choice for one that does not exist."""
    text = " ".join(str(error).split()) or type(error).__name__
    unknown = (
        re.search(r"(?:Key|Group key|Option) '([\w.]+)' is not expected", text)
        or re.search(r"[Uu]nrecognized arguments?: -*([\w.]+)", text)
        or re.search(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>[\w.]+)'", text)
    )
    if unknown:
        key = ".".join(unknown.groups())
        return f"unknown option '{key}'; the nearest is '{_nearest(key, _options())}'"
    choice = re.search(r"""Parser key "([\w.]+)": Expected a typing.Literal\[(.*)\]\. Got value: (.*)""", text)
    if choice:
        key, values, given = choice.group(1), re.findall(r"'([^']*)'", choice.group(2)), choice.group(3)
        near = _nearest(given, values)
        return f"{key} must be {' or '.join(values)}, not '{given}'; the nearest is '{near}'"
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    kind = re.search(r"""Parser key "([\w.]+)": Expected a <class '(\w+)'>\. Got value: (.*)""", text)
    if kind:
        return f"{kind.group(1)} must be {kinds.get(kind.group(2), kind.group(2))}, not '{kind.group(3)}'"
    optional = re.search(
        r"""Parser key "([\w.]+)": .*Subtypes: \[<class '(\w+)'>, <class 'NoneType'>\].*Given value: (.*)""", text
    )
    if optional:
        wanted = kinds.get(optional.group(2), optional.group(2))
        return f"{optional.group(1)} must be {wanted}, or null, not '{optional.group(3)}'"
    backbone = re.search(r"""Parser key "model.vlm".*Expected a dot import path string: (\S+)""", text)
    if backbone:
        classes = {name: getattr(vlm, name) for name in vlm.__all__ if name != "VLM"}
        names = [name for name, value in classes.items() if issubclass(value, vlm.VLM)]
        return f"unknown VLM '{backbone.group(1)}'; the nearest is '{_nearest(backbone.group(1), names)}'"
    return text


def _nearest(given: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(given, known, n=1, cutoff=0.0)[0]


def _options() -> list[str]:
    owners = {"model": FuRLModule, "data": FuRLDataModule, "trainer": Trainer}
    return ["name", "runs", "ckpt_path", "config"] + [
        f"{prefix}.{parameter}"
        for prefix, owner in owners.items()
        for parameter in list(inspect.signature(owner.__init__).parameters)[1:]  # type: ignore[misc]
    ]


def _quiet() -> None:
    """Lightning's hints do not apply here: the loader is the environment, and the loop is manual."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*Constant\\(s\\) may be too high.*")
