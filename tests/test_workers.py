"""Workers that hang, end, or cannot be started: one line, in time, and what was saved stays good."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from furl_lightning.commands.fit import fit
from furl_lightning.envs import workers as module
from furl_lightning.envs.fleet import Fleet
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.envs.workers import WorkerError
from furl_lightning.tasks import Agent
from furl_lightning.training.checkpoint import load_whole

from .conftest import SMALL

SAC = {"model.vlm": "null", "model.reward.source": "task", "model.relay.enabled": "false"}
HEAD = "import os, sys\nfrom furl_lightning.envs.fleet import Fleet, SimulatorSettings as S\n"
HEAD += "from furl_lightning.tasks import Agent\nagents = [Agent('reach', 0), Agent('reach', 1)]\n"


def test_a_worker_that_hangs_or_is_killed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Which, its agents, its state, what it was asked and how to look at it; the others are not; none is left."""
    before = Path("/proc/self/maps").read_text().count("/dev/shm/")
    fleet = Fleet([Agent("reach", 0), Agent("push", 1), Agent("push", 2)], SimulatorSettings(), 2, worker_timeout=2)
    assert fleet._workers is not None
    maps = Path("/proc/self/maps").read_text()
    assert "/memfd:furl-arrays" in maps and maps.count("/dev/shm/") == before  # which containers keep small
    well, hung = fleet._workers._processes
    fleet.reset()
    os.kill(hung.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(WorkerError) as raised:
        fleet.step()
    assert 1.5 < time.monotonic() - started < 5
    for text in (str(raised.value), capsys.readouterr().err):  # before the end, while one can look, and at the end
        assert f"worker process {hung.pid} (push/1 to push/2, 2 agents, stopped) was told to step" in text
        assert f"py-spy dump --pid {hung.pid}" in text and str(well.pid) not in text and "\n" not in text.strip()
    assert not well.is_alive() and not hung.is_alive()
    fleet.close()

    fleet = Fleet([Agent("reach", 0), Agent("push", 1)], SimulatorSettings(), 2)
    assert fleet._workers is not None
    killed, process = fleet._workers._processes
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    with pytest.raises(
        WorkerError, match=rf"{killed.pid} \(reach/0\) was told to reset and was killed by SIGKILL: out"
    ):
        fleet.reset()
    assert not process.is_alive()

    fleet = Fleet([Agent("reach", 0)], SimulatorSettings(), 1)
    assert fleet._workers is not None
    (process,) = fleet._workers._processes
    os.kill(process.pid, signal.SIGSTOP)
    started = time.monotonic()
    fleet.close()
    assert time.monotonic() - started < 5 and not process.is_alive()


@pytest.mark.parametrize(("overlap", "cause"), [(False, "SIGINT"), (True, "SIGTERM"), (True, "hangs")])
def test_a_run_whose_worker_hangs(
    overlap: bool,
    cause: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends soon after Ctrl-C, or when its time is over, and the last checkpoint is good."""
    monkeypatch.setattr(module, "STOP_SECONDS", 1)
    settings = {**SMALL, **SAC, "data.env_steps": "100000", "data.checkpoints.every": "50"}
    settings |= {"data.collection.num_workers": "1", "data.collection.overlap": str(overlap).lower()}
    settings |= {"data.collection.worker_timeout": "2" if cause == "hangs" else "60"}
    ended = threading.Event()

    def disturb() -> None:
        while not ended.wait(0.05) and not list(tmp_path.glob("hung/checkpoints/step-*[1-9]*.ckpt")):
            pass
        if ended.is_set():
            return
        for process in multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
        if cause != "hangs":
            time.sleep(0.3)
            os.kill(os.getpid(), signal.Signals[cause])

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        argv = [part for key, value in settings.items() for part in (f"--{key}", value)]
        quiet = ["--pictures", "false", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
        status = fit([*argv, *quiet, "--runs", str(tmp_path), "--name", "hung"])
    finally:
        ended.set()
        disturber.join()
    text = capsys.readouterr().err
    assert "Traceback" not in text and "(drawer-close/0, stopped) was told to" in text
    assert status == (1 if cause == "hangs" else 128 + signal.Signals[cause])
    assert ("go on with:" in text) == (cause != "hangs")
    last = load_whole(tmp_path / "hung" / "checkpoints" / "last.ckpt")
    steps = last["FuRLDataModule"]["env_steps"]
    assert steps >= 50 and f"all up to step {steps:,} is saved in" in text
    assert not multiprocessing.active_children()


def python(tmp_path: Path, code: str, *before: str, stdin: bool = False) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [*before, sys.executable, "-W", "ignore", *([] if stdin else [str(script)])]
    text = code if stdin else None
    return subprocess.run(command, input=text, cwd=tmp_path, capture_output=True, text=True, timeout=120)


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    """One line; and so from standard input, which workers cannot import, beside the exception's traceback."""
    argv = [part for key, value in {**SMALL, **SAC}.items() for part in (f"--{key}", value)]
    argv += ["--runs", str(tmp_path / "runs"), "--data.collection.num_workers", "1"]
    done = python(tmp_path, f"from furl_lightning.commands.fit import fit\nraise SystemExit(fit({argv!r}))")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("furl-fit: each worker process imports script.py and would begin its work again")
    assert "if __name__ == '__main__':" in line
    done = python(tmp_path, HEAD + "Fleet(agents, S(), 2)", stdin=True)
    assert done.stderr.count("Traceback") == 1 and "<stdin> is no file: put it in one" in done.stderr.splitlines()[-1]


FORKS = """
if __name__ == "__main__":
    fleet = Fleet(agents, S(render="fast"), 1)
    alone = Fleet(agents[:1], S(render="fast"))
    for each in (fleet, alone):
        each.reset()
    child = os.fork()
    if not child:
        for each in (fleet, alone):
            try:
                each.step()
            except Exception as error:
                print(type(error).__name__, error)
        sys.exit(0)
    os.waitpid(child, 0)
    for each in (fleet, alone):
        each.step()
    print("parent", (fleet.arrays.pixels[0] == alone.arrays.pixels[0]).all())
    from multiprocessing import get_context
    with get_context("fork").Pool(1) as pool:
        try:
            pool.apply(Fleet, (agents, S(), 1))
        except Exception as error:
            print(type(error).__name__, error)
    fleet.close()
    alone.close()
"""


def test_a_script_that_forks(tmp_path: Path) -> None:
    """The child is told what it cannot use, and its end leaves the parent's workers and pictures alone."""
    done = python(tmp_path, HEAD + FORKS + "    from furl_lightning.envs.rendering import close_gl\n    close_gl()\n")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("WorkerError there are no workers: they were closed, or are those of the process that")
    assert lines[1].startswith("NoGL OpenGL does not survive a fork")
    assert lines[2] == "parent True"
    assert lines[3].startswith("BadInput worker processes cannot be started from a daemonic process")


def test_a_small_dev_shm(tmp_path: Path) -> None:
    """One page of it is enough for workers that draw."""
    mount = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=4k tmpfs /dev/shm && exec "$@"', "sh")
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    code = "if __name__ == '__main__':\n    fleet = Fleet(agents, S(render='fast'), 2)\n    fleet.reset()\n"
    code += (
        "    print(os.statvfs('/dev/shm').f_blocks, fleet.arrays.pixels.min(axis=(1, 2, 3)) < 255)\n    fleet.close()\n"
    )
    done = python(tmp_path, HEAD + code, *mount)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 [ True  True]\n", "")
