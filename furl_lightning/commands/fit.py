"""``furl-fit``: Lightning's command line for FuRL, runs in folders, and errors in one line."""

from __future__ import annotations

import errno
import inspect
import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, set_dumper
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from furl_lightning.commands.arguments import answer, one_line
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.fleet import WorkerError
from furl_lightning.envs.rendering import NoGL, gl_context
from furl_lightning.replay.journal import DamagedFile
from furl_lightning.runs.folder import FolderRefused, RunFolder
from furl_lightning.runs.metrics_csv import MetricsCSV
from furl_lightning.runs.tensorboard import TensorBoard, silence_writer_thread
from furl_lightning.training.checkpoint import Checkpoints, load_checkpoint, load_whole
from furl_lightning.training.evaluation import Evaluation
from furl_lightning.training.module import Diverged, FuRLModule, OtherRun
from furl_lightning.training.progress_bar import Progress
from furl_lightning.training.tensorboard_pages import TensorBoardPages
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.stopping import Stopped, Stopping

RUNS = "runs"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "max_epochs": 1,  # the run's length is data.env_steps
    "enable_checkpointing": False,  # ours: furl_lightning/checkpoint.py
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
HONOURED = {
    *("accelerator", "devices", "precision", "logger", "callbacks", "enable_progress_bar", "max_time"),
    *("profiler", "deterministic", "benchmark", "detect_anomaly", "plugins"),
}
"""Lightning's options that reach something in this loop; another one that is set is refused."""
PRECISIONS = ("None", "32", "32-true", "bf16-mixed")
INSTEAD = {
    **dict.fromkeys(["max_steps", "max_epochs", "min_steps", "min_epochs"], "the run's length is data.env_steps"),
    "limit_train_batches": "the run's length is data.env_steps",
    "fast_dev_run": "for a short run set data.env_steps",
    "log_every_n_steps": "set model.log_every, in environment steps",
    "enable_checkpointing": "checkpoints are always written, every data.save_every steps",
    "default_root_dir": "the folder is --runs and --name",
    "num_nodes": "a population trains on one device",
    "strategy": "a population trains on one device",
}


class _Dumper(yaml.SafeDumper):
    """YAML as one would write it: a list of plain values takes one line, so that a changed list is one line too."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)


set_dumper("yaml", lambda data: yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))


ONE_DEVICE = (
    "trainer.devices must be 1: a population trains on one device; furl-sweep spreads one over several "
    "devices and machines, see docs/cluster.md"
)


class FitCLI(LightningCLI):
    """Lightning's command line with ``--name``, ``--runs`` and ``--ckpt_path``."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises instead of printing its usage."""
        return super().init_parser(**{**kwargs, "exit_on_error": False})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's own options."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run (default: the configs').")
        parser.add_argument("--runs", type=str, default=RUNS, help="Folder in which runs lie, each under its name.")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Resume: 'last', or a checkpoint of the run."
        )
        parser.add_argument("--pictures", type=bool, default=True, help="Film strips in TensorBoard at evaluations.")
        parser.set_defaults({"model.vlm": {"class_path": "furl_lightning.vlm.Embedded"}})

    def before_instantiate_classes(self) -> None:
        """Refuse what Lightning would refuse or change, on some machines, in words of its own."""
        devices = self.config["trainer"]["devices"]
        if (isinstance(devices, int) and devices > 1) or (isinstance(devices, list) and len(devices) > 1):
            raise ValueError(ONE_DEVICE)
        precision = self.config["trainer"]["precision"]
        if str(precision) not in PRECISIONS:
            raise ValueError(
                f"trainer.precision must be 32-true or bf16-mixed, not {precision}: float16 would need scaled losses, "
                "and parameters must stay in float32"
            )


class _Unmade(FitCLI):
    """Arguments that are parsed, and no more: a VLM may be large, or lie on another machine."""

    def instantiate_classes(self) -> None:
        """Make nothing."""


def check(argv: list[str]) -> FuRLDataModule:
    """The data module that ``furl-fit`` would make; all arguments are parsed, and nothing is written.

    Raises:
        BadInput: furl-fit would refuse them.
    """
    _quiet()
    try:
        cli = _cli(_Unmade, argv)
        _refuse_without_effect(cli)
        return FuRLDataModule(**cli.config["data"])
    except (ArgumentError, TypeError, ValueError, OSError) as error:
        raise BadInput(one_line(error, _options())) from error


def _cli(kind: type[FitCLI], argv: list[str]) -> FitCLI:
    return kind(
        FuRLModule,
        FuRLDataModule,
        args=argv,
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
        trainer_defaults=TRAINER_DEFAULTS,
        parser_kwargs={"parser_mode": "omegaconf", "description": "Train FuRL on a population of Meta-World agents."},
    )


def fit(argv: Sequence[str] | None = None) -> int:
    """``furl-fit``: train, or resume training; returns the exit status."""
    _quiet()
    with Stopping() as stopping:
        return answer("furl-fit", lambda given: _fit(given, stopping), argv)


def _fit(argv: list[str], stopping: Stopping) -> int:
    try:
        folder, checkpoint, cli = _prepare(argv, stopping)
    except (ArgumentError, TypeError, ValueError, OSError, NoGL) as error:
        raise BadInput(one_line(error, _options())) from error
    except Stopped as stop:
        print(f"\nfurl-fit: stopped by {stop} before anything was written", file=sys.stderr)
        return stopping.status
    module, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(module, FuRLModule) and isinstance(data, FuRLDataModule)
    checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    try:
        with folder.locked():
            if not _resumes_in(folder, checkpoint):
                folder.refuse_if_taken()  # again: another process may have been faster
            cli.config["ckpt_path"] = None  # of this call, not of the run
            folder.write_config(cli.parser.dump(cli.config, skip_none=False), resumes=checkpoint is not None)
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
    except (OtherRun, DamagedFile, FolderRefused, NoGL, WorkerError) as error:
        raise BadInput(one_line(error, _options())) from error
    except (Diverged, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise
        print(f"\nfurl-fit: {one_line(error, _options())}; {_saved(folder)}", file=sys.stderr)
        return 1
    except Stopped:
        pass
    if stopping.signal is not None:
        done = data.env_steps >= data.env_steps_total and not checkpoints.failed
        again = shlex.join(["furl-fit", *_place(folder), "--ckpt_path", "last"])
        if not _resumes_in(folder, folder.checkpoints / "last.ckpt"):
            again = shlex.join(["furl-fit", *argv])
        print(
            f"\nfurl-fit: stopped by {stopping.signal.name}; {_saved(folder)}; "
            + ("the run is complete" if done else f"go on with:\n  {again}"),
            file=sys.stderr,
        )
        return stopping.status
    if checkpoints.failed:
        print(f"\nfurl-fit: the end of the run is not saved; {_saved(folder)}", file=sys.stderr)
        return 1
    return 0


def _saved(folder: RunFolder) -> str:
    """What the run's folder holds, in words."""
    try:
        path = folder.checkpoint("last")
    except FolderRefused:
        return "nothing is saved yet"
    return f"all up to step {load_checkpoint(path)['FuRLDataModule']['env_steps']:,} is saved in {path}"


def _resumes_in(folder: RunFolder, checkpoint: Path | None) -> bool:
    """Whether a checkpoint is one of this run's own."""
    return (
        checkpoint is not None and checkpoint.is_file() and checkpoint.parent.resolve() == folder.checkpoints.resolve()
    )


def _prepare(argv: list[str], stopping: Stopping) -> tuple[RunFolder, Path | None, FitCLI]:
    """Parse and check everything; writes nothing."""
    name = _value(argv, "--name") or _name_of(argv)
    folder = RunFolder(Path(_value(argv, "--runs") or RUNS), name)
    asked = _value(argv, "--ckpt_path")
    checkpoint = None
    helping = any(a in ("-h", "--help") or a.startswith("--print_config") for a in argv)
    if asked:
        checkpoint = folder.checkpoint(asked)
        config = folder.newest_config()
        if _resumes_in(folder, checkpoint) and config is not None:  # a resumed run starts from its own configuration
            argv = ["--config", str(config), *argv]
    if not helping and not _resumes_in(folder, checkpoint):
        folder.refuse_if_taken()
    cli = _cli(FitCLI, argv)
    data, trainer = cli.datamodule, cli.trainer
    assert isinstance(cli.model, FuRLModule) and isinstance(data, FuRLDataModule)
    _refuse_without_effect(cli)
    settings = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    cli.model.settings = {part: settings[part] for part in ("model", "data")}
    if trainer.num_devices != 1:
        raise ValueError(ONE_DEVICE)
    data.prepare_for(cli.model)
    cli.model.make_reward(data.instructions)  # refuses what the VLM cannot read
    data.run_folder = folder.path
    resumed_steps = None
    if checkpoint is not None:
        saved = load_whole(checkpoint)
        resumed_steps = int(saved["FuRLDataModule"]["env_steps"])
        cli.model.refuse_other_run(saved, data)
        data.restored_from = checkpoint.parent
        if data.env_steps_total <= resumed_steps:
            raise ValueError(
                f"{checkpoint} has {resumed_steps} environment steps already; "
                f"to go on, give a larger --data.env_steps than {data.env_steps_total}"
            )
        if resumed_steps % data.steps_per_iteration:
            raise ValueError(
                f"data.steps_per_iteration must divide the checkpoint's {resumed_steps} environment steps; "
                f"{data.steps_per_iteration} does not"
            )
    if data.settings.render is not None:
        gl_context()
    pages = TensorBoardPages(cli.config["pictures"])
    trainer.callbacks.extend([Evaluation(stopping), pages, Checkpoints(folder.checkpoints, stopping)])  # type: ignore[attr-defined]
    if cli.config["trainer"]["enable_progress_bar"] is not False:
        trainer.callbacks[:] = [c for c in trainer.callbacks if "ProgressBar" not in type(c).__name__]  # type: ignore[attr-defined]
        trainer.callbacks.append(Progress())  # type: ignore[attr-defined]
    if cli.config["trainer"]["logger"] is None:
        purge = None if resumed_steps is None else resumed_steps + 1
        trainer.loggers = [
            TensorBoard(folder.path.parent, name=folder.path.name, version="", purge_step=purge),
            MetricsCSV(folder.metrics, resumed_steps),
        ]
    return folder, checkpoint, cli


def _refuse_without_effect(cli: FitCLI) -> None:
    """Lightning has options for loops that are not ours; silence would be worse than a refusal."""
    defaults = cli.parser.get_defaults()
    for name, value in cli.config["trainer"].items():
        if value != defaults["trainer"][name] and name not in HONOURED:
            raise ValueError(f"trainer.{name} has no effect here; leave it out ({INSTEAD.get(name, 'see --help')})")
    if cli.config["seed_everything"] not in (False, None):
        raise ValueError("seed_everything has no effect here: each agent is seeded by its own; give --data.seeds")


def _place(folder: RunFolder) -> list[str]:
    """The options that name a run's folder."""
    runs = str(folder.path.parent)
    return [*([] if runs == RUNS else ["--runs", runs]), "--name", folder.path.name]


def _value(argv: list[str], option: str) -> str | None:
    """An option's value, needed before the parser is made."""
    value = None
    for i, argument in enumerate(argv):
        if argument == option and i + 1 < len(argv):
            value = argv[i + 1]
        elif argument.startswith(f"{option}="):
            value = argument.split("=", 1)[1]
    return value


def _name_of(argv: list[str]) -> str:
    configs = [argv[i + 1] for i, a in enumerate(argv[:-1]) if a == "--config"]
    configs += [a.split("=", 1)[1] for a in argv if a.startswith("--config=")]
    return "-".join(Path(config).stem for config in configs) or "furl"


def _options() -> list[str]:
    owners = {"model": FuRLModule, "data": FuRLDataModule, "trainer": Trainer}
    return ["name", "runs", "ckpt_path", "pictures", "config"] + [
        f"{prefix}.{parameter}"
        for prefix, owner in owners.items()
        for parameter in list(inspect.signature(owner.__init__).parameters)[1:]  # type: ignore[misc]
    ]


def _quiet() -> None:
    """Lightning's hints do not apply here: the loader is the environment, and the loop is manual."""
    silence_writer_thread()
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*Constant\\(s\\) may be too high.*")
