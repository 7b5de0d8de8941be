"""``furl-fit``: train, or resume training, in a run's folder."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pytorch_lightning import Trainer

from furl_lightning.commands.arguments import answer
from furl_lightning.commands.class_options import foreign_classes, options_set
from furl_lightning.commands.config_files import read_mapping
from furl_lightning.commands.options import (
    RUNS,
    FitArguments,
    fit_parser,
    make_data,
    make_module,
    make_trainer,
    parse_fit,
    read_arguments,
)
from furl_lightning.commands.precision import refuse_slow_bfloat16
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.graphics_device import open_gl, what_draws
from furl_lightning.envs.rendering import NoGL
from furl_lightning.envs.workers import WorkerError
from furl_lightning.runs.folder import AUTO, FolderRefused, RunFolder
from furl_lightning.runs.metrics_csv import MetricsCSV
from furl_lightning.runs.tensorboard import TensorBoard, silence_writer_thread
from furl_lightning.runs.wandb_run import keep_id
from furl_lightning.tasks import METAWORLD
from furl_lightning.training.checkpoint import Checkpoints, load_checkpoint, load_whole
from furl_lightning.training.divergence import Diverged
from furl_lightning.training.evaluation import Evaluation
from furl_lightning.training.film_log import FilmLog
from furl_lightning.training.identity import refuse_other_run
from furl_lightning.training.machine_record import MachineRecord
from furl_lightning.training.metrics_log import MetricsLog
from furl_lightning.training.module import FuRLModule
from furl_lightning.training.progress_bar import StepsBar
from furl_lightning.training.saved_settings import safe_settings
from furl_lightning.training.tensorboard_pages import TensorBoardPages
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import NO_ROOM, refuse_name, refuse_unwritable
from furl_lightning.utils.stopping import Stopped, Stopping

NOT_REPLAYED = (
    "warning: an episode that is played again from its seed and actions comes out otherwise, so this run is saved, "
    "stopped and resumed between two episodes only"
)


@dataclass
class Plan:
    """A run that is ready to begin, or to go on."""

    folder: RunFolder
    checkpoint: Path | None
    """That it resumes from."""
    config: str
    """All settings, as YAML."""
    module: FuRLModule
    data: FuRLDataModule
    trainer: Trainer
    checkpoints: Checkpoints


class RunComplete(Exception):
    """The run that is to begin, or to go on, wherever it is, has reached its end already."""


def fit(argv: Sequence[str] | None = None) -> int:
    """``furl-fit``: train, or resume training; returns the exit status."""
    with Stopping() as stopping:
        return answer("furl-fit", lambda arguments: run_fit(arguments, stopping), argv)


def run_fit(argv: list[str], stopping: Stopping) -> int:
    """``furl-fit`` on its arguments; returns the exit status.

    Raises:
        BadInput: the run cannot be begun, or cannot go on, like this.
    """
    try:
        plan = prepare(argv, stopping)
    except Stopped as stop:
        print(f"\nfurl-fit: stopped by {stop} before anything was written", file=sys.stderr)
        return stopping.status
    except RunComplete as complete:
        print(f"furl-fit: {complete}", file=sys.stderr)
        return 0
    folder, data, checkpoints = plan.folder, plan.data, plan.checkpoints
    try:
        with folder.locked():
            if not _resumes_in(folder, plan.checkpoint):
                folder.refuse_if_taken()  # again: another process may have been faster
            folder.write_config(plan.config, resumes=plan.checkpoint is not None)
            keep_id(plan.trainer.loggers, folder.path)
            if data.draws_with_gl:
                for line in what_draws(plan.trainer.strategy.root_device):
                    print(f"furl-fit: {line}", file=sys.stderr)
            path = plan.checkpoint and str(plan.checkpoint)
            plan.trainer.fit(plan.module, datamodule=data, ckpt_path=path, weights_only=True)
    except (Diverged, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise
        print(f"\nfurl-fit: {' '.join(str(error).split())}; {_saved(folder)}", file=sys.stderr)
        return 1
    except WorkerError as error:
        print(f"{error.details}\nfurl-fit: {' '.join(str(error).split())}; {_saved(folder)}", file=sys.stderr)
        if stopping.signal is None:
            return 1
    except Stopped:
        pass
    if stopping.signal is not None:
        done = data.env_steps >= data.env_steps_total and not checkpoints.failed
        again = shlex.join(["furl-fit", *_place(folder), "--ckpt_path", "last", *foreign_classes(plan.config)])
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


def prepare(argv: Sequence[str], stopping: Stopping) -> Plan:
    """Parse and check everything; writes nothing.

    Raises:
        BadInput: the run cannot be begun, or cannot go on, like this.
        RunComplete: it was to go on wherever it is, and is at its end.
    """
    quiet()
    arguments = read_arguments(argv)
    refuse_name(arguments.name)
    folder = RunFolder(arguments.runs, arguments.name)
    if not arguments.asks_for_help:
        refuse_unwritable(folder.path, "--runs or --name")
    goes_on_if_possible = arguments.ckpt_path == AUTO
    if goes_on_if_possible:
        checkpoint = folder.newest_checkpoint()
    else:
        checkpoint = folder.checkpoint(arguments.ckpt_path) if arguments.ckpt_path else None
    resumes = _resumes_in(folder, checkpoint)
    if not resumes and not arguments.asks_for_help:
        folder.refuse_if_taken()
    parser, config = parse_fit(_with_own_settings(arguments, folder) if resumes else arguments.argv)
    config.name, config.runs, config.ckpt_path = arguments.name, str(arguments.runs), None
    data, trainer = make_data(config), make_trainer(config, resumes)
    refuse_slow_bfloat16(config, trainer.strategy.root_device)
    module = make_module(config)
    module.agree(data)
    config.data.env.render = data.simulators.render or config.data.env.render  # what another VLM's "auto" would change
    text = parser.dump(config, skip_unset=False)
    settings = yaml.safe_load(text)
    module.settings = {part: settings[part] for part in ("model", "data")}
    module.embed_instructions(data)  # refuses what the VLM cannot read
    data.run_folder = folder.path
    steps = None
    if checkpoint is not None:
        steps = _refuse_checkpoint(checkpoint, module, data, goes_on_if_possible)
        data.restored_from = checkpoint.parent
    else:
        data.read_goal_images()
    if data.simulators.render is not None:
        try:
            open_gl(trainer.strategy.root_device)
        except NoGL:
            if data.env_settings.simulator == METAWORLD:  # others may draw by other means
                raise
    data.examine()
    if not data.can_be_replayed:
        print(f"furl-fit: {NOT_REPLAYED}", file=sys.stderr)
    checkpoints = Checkpoints(folder.checkpoints, stopping)
    shown = [Evaluation(stopping), FilmLog(config.pictures), TensorBoardPages()]
    callbacks = [MachineRecord(folder.machine), MetricsLog(), *shown, checkpoints]
    if config.trainer.enable_progress_bar is not False:
        trainer.callbacks[:] = [c for c in trainer.callbacks if "ProgressBar" not in type(c).__name__]  # type: ignore[attr-defined]
        callbacks.append(StepsBar())
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    if config.trainer.logger is not False:
        trainer.loggers = [
            TensorBoard(folder.path, steps),
            MetricsCSV(folder.metrics, steps),
            *([] if config.trainer.logger in (None, True) else trainer.loggers),  # the run's record stays beside them
        ]
    return Plan(folder, checkpoint, text, module, data, trainer, checkpoints)


def _with_own_settings(arguments: FitArguments, folder: RunFolder) -> list[str]:
    """The arguments over the configuration that the run had last."""
    folder.refuse_links()
    config = folder.newest_config()
    if config is None:
        return arguments.argv
    settings = safe_settings(read_mapping(config), fit_parser(), config, options_set(arguments.argv))
    return ["--config", yaml.safe_dump(settings), *arguments.argv]


def _refuse_checkpoint(checkpoint: Path, module: FuRLModule, data: FuRLDataModule, may_be_complete: bool) -> int:
    """The environment steps of a checkpoint that the run can go on from.

    Raises:
        BadInput: it is damaged, of another run, or beyond the run's end.
        RunComplete: it is at the run's end, and may be.
    """
    saved = load_whole(checkpoint)
    steps = int(saved["FuRLDataModule"]["env_steps"])
    refuse_other_run(saved, module.identity(data))
    if data.env_steps_total <= steps and may_be_complete:
        raise RunComplete(f"the run is complete: all {steps:,} steps are saved in {checkpoint}")
    if data.env_steps_total <= steps:
        raise BadInput(
            f"{checkpoint} has {steps} environment steps already; "
            f"to go on, give a larger --data.env_steps than {data.env_steps_total}"
        )
    if steps % data.steps_per_iteration:
        raise BadInput(
            f"data.collection.steps_per_iteration must divide the checkpoint's {steps} environment steps; "
            f"{data.steps_per_iteration} does not"
        )
    return steps


def _saved(folder: RunFolder) -> str:
    """What the run's folder holds, in words."""
    try:
        path = folder.checkpoint("last")
    except FolderRefused:
        return "nothing is saved yet"
    return f"all up to step {load_checkpoint(path)['FuRLDataModule']['env_steps']:,} is saved in {path}"


def _resumes_in(folder: RunFolder, checkpoint: Path | None) -> bool:
    """Whether a checkpoint is one of this run's."""
    if checkpoint is None or not checkpoint.is_file():
        return False
    return checkpoint.parent.resolve() == folder.checkpoints.resolve()


def _place(folder: RunFolder) -> list[str]:
    """The options that name a run's folder."""
    runs = str(folder.path.parent)
    return [*([] if runs == RUNS else ["--runs", runs]), "--name", folder.path.name]


def quiet() -> None:
    """Lightning's hints do not apply here: the loader is the environment, and the loop is manual."""
    silence_writer_thread()
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*Constant\\(s\\) may be too high.*")
