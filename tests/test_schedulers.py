"""furl-fit under Slurm, LSF, torchrun and others: one process, whatever their variables say; and one command that
starts a run or goes on with it, for jobs that are put back into the queue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import SingleDeviceStrategy

from furl_lightning.commands.fit import fit, prepare
from furl_lightning.data.datamodule import Iteration
from furl_lightning.training.module import FuRLModule
from furl_lightning.training.single_device import OneProcess
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.stopping import SIGNALS, Stopping

from .conftest import SMALL

SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PMI_RANK": "1"}
LSF = {"LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "4"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "1"}
LIGHTNING = {"PL_TRAINER_FAST_DEV_RUN": "1", "PL_TRAINER_NUM_NODES": "2", "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1"}
VARIABLES = {
    "slurm": {**SLURM, "SLURM_NODEID": "1", **MPI, **LIGHTNING},
    "torchrun": {**TORCHRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "2", "NODE_RANK": "1"},
    "lsf": {**LSF, "SLURM_PROCID": "1", "NODE_RANK": ""},
}
"""What Lightning would take first comes first among schedulers: torchrun's variables, Slurm's, LSF's, MPI's."""
SAC = {"model.vlm": "null", "model.reward.source": "task", "model.relay.enabled": "false"}
QUIET = {"pictures": "false", "trainer.enable_progress_bar": "false", "trainer.accelerator": "cpu"}
SHORT = {"data.env_steps": "20", "data.collection.start_steps": "10"}


def arguments(*flags: str, **settings: Any) -> list[str]:
    """The command line of a small SAC run named ``a`` in the current folder's ``runs``."""
    values = {**SMALL, **SAC, **QUIET, **SHORT, **{key.replace("__", "."): value for key, value in settings.items()}}
    return ["--name", "a", *flags, *(part for key, value in values.items() for part in (f"--{key}", str(value)))]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder of the test's, in which a job of somebody else's has left a checkpoint; srun on the PATH."""
    monkeypatch.chdir(tmp_path)
    Path("hpc_ckpt_1.ckpt").write_text("not ours")
    Path("bin").mkdir()
    Path("bin/srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", VARIABLES)
def test_a_schedulers_variables_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run trains to its end and logs, as rank zero of one, and without a word."""
    for variable, value in VARIABLES[name].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning reads it from these when it is imported
    before, trainers, train = dict(os.environ), [], Trainer.fit

    def train_and_note(self: Trainer, *args: Any, **others: Any) -> None:
        trainers.append(self)
        train(self, *args, **others)

    monkeypatch.setattr(Trainer, "fit", train_and_note)
    with warnings.catch_warnings(record=True) as caught:
        assert fit(arguments()) == 0
    assert [str(warning.message) for warning in caught if "srun" in str(warning.message)] == []
    (trainer,) = trainers
    assert isinstance(trainer._accelerator_connector.cluster_environment, OneProcess)
    assert isinstance(trainer.strategy, SingleDeviceStrategy)
    assert (trainer.global_rank, trainer.local_rank, trainer.node_rank, trainer.world_size) == (0, 0, 0, 1)
    rows = Path("runs/a/metrics.csv").read_text().splitlines()
    assert {"20,eval/success,0.0", "20,eval/success/drawer-close,0.0"} <= set(rows)
    (events,) = Path("runs/a").glob("events.out.tfevents.*")
    assert b"eval/success" in events.read_bytes()
    assert before == dict(os.environ)
    assert sorted(path.name for path in Path().iterdir()) == ["bin", "hpc_ckpt_1.ckpt", "runs"]


def test_a_plugin_for_several_processes_is_refused() -> None:
    flag = '[{"class_path": "lightning_fabric.plugins.environments.SLURMEnvironment"}]'
    with pytest.raises(BadInput, match=r"trainer\.plugins: SLURMEnvironment has no effect here; leave it out"):
        prepare(arguments("--trainer.plugins", flag), Stopping())


def test_usr1_under_slurm_stops_politely_and_auto_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole job, with the command itself: a signal before the end of its time, and the same command again."""
    code = "import torch; torch.set_num_threads(1); from furl_lightning.cli import furl_fit; furl_fit()"
    argv = arguments("--ckpt_path", "auto", data__env_steps=2000)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        env={**os.environ, **SLURM, "RANK": "1", "LOCAL_RANK": ""},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not Path("runs/a/metrics.csv").exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGUSR1)  # Slurm's goes to every process
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGUSR1
    assert not any(word in text for word in ("Traceback", "Warning", "srun")), text
    assert "stopped by SIGUSR1; all up to step" in text
    assert sorted(path.name for path in Path().iterdir()) == ["bin", "hpc_ckpt_1.ckpt", "runs"]
    (saved,) = (path for path in Path("runs/a/checkpoints").glob("step-*.ckpt") if "step-000000000" not in path.name)
    steps = int(saved.stem.removeprefix("step-"))
    assert 0 < steps < 2000
    argv = arguments("--ckpt_path", "auto", data__env_steps=steps + 10)
    assert fit(argv) == 0
    assert Path(f"runs/a/checkpoints/step-{steps + 10:09d}.ckpt").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_usr1_and_usr2_mean_what_sigterm_means(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an update: that is finished, and saved. A second one ends the process."""
    step = FuRLModule.training_step

    def interrupted(self: FuRLModule, iteration: Iteration, *args: Any) -> None:
        os.kill(os.getpid(), number)
        assert [signal.getsignal(other) for other in SIGNALS] == [signal.SIG_DFL] * len(SIGNALS)
        step(self, iteration)

    monkeypatch.setattr(FuRLModule, "training_step", interrupted)
    assert fit(arguments()) == 128 + number
    assert Path("runs/a/checkpoints/step-000000010.ckpt").exists()


def test_auto_in_every_state_of_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing, the end, a checkpoint, something else, and what a start left that was cut off."""
    auto, folder = ["--ckpt_path", "auto"], Path("runs/a")
    checkpoints = folder / "checkpoints"
    folder.mkdir(parents=True)
    assert fit(arguments(*auto)) == 0 and (checkpoints / "step-000000020.ckpt").exists()

    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert fit(arguments(*auto)) == 0  # a job that is started once more after its end has succeeded
    last = checkpoints / "last.ckpt"
    assert capsys.readouterr().err == f"furl-fit: the run is complete: all 20 steps are saved in {last}\n"
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    last.unlink()  # the first save may end before its file has this name too
    assert fit(arguments(*auto, data__env_steps=30)) == 0 and (checkpoints / "step-000000030.ckpt").exists()
    last.write_bytes(b"damaged")
    capsys.readouterr()
    assert fit(arguments(*auto)) == 2
    assert "last.ckpt is damaged" in capsys.readouterr().err

    shutil.rmtree(checkpoints)
    checkpoints.mkdir()
    (checkpoints / "step-000000000.ckpt.part").touch()
    assert fit(arguments(*auto)) == 2  # metrics.csv is of a run that trained
    assert f"the run folder {folder} exists already; choose another --name" in capsys.readouterr().err
    (folder / "metrics.csv").unlink()
    assert fit(arguments(*auto)) == 0 and (checkpoints / "step-000000020.ckpt").exists()


def test_refusals_name_auto(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(arguments("--ckpt_path", "last")) == 2
    assert "last.ckpt; start the run with --ckpt_path auto, or without it" in capsys.readouterr().err
    checkpoints = Path("runs/a/checkpoints")
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").touch()
    assert fit(arguments()) == 2
    assert "exists already; resume it with --name a --ckpt_path auto, or choose" in capsys.readouterr().err
