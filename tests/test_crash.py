"""What a crash, a full disk, a damaged file, a NaN or a signal may do to a run: nothing that cannot be undone."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from tensordict import TensorDictBase

from furl_lightning.commands.fit import fit
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.data.policy import DeterministicPolicy
from furl_lightning.method.learner import Batch
from furl_lightning.replay.journal import DamagedFile
from furl_lightning.training.checkpoint import Checkpoints, load_checkpoint, load_whole
from furl_lightning.training.identity import OtherRun, refuse_other_run
from furl_lightning.training.module import FuRLModule
from furl_lightning.utils.durable import link_file, write_file
from furl_lightning.vlm import EmbeddedCLIP

from .conftest import SMALL, Run, assert_same, load

COMMAND = "import torch; torch.set_num_threads(1); from furl_lightning.cli import furl_fit; furl_fit()"


def arguments(runs: Path, name: str, tiny_clip: Path, **settings: Any) -> list[str]:
    """The command line of a small run."""
    vlm = {"model.vlm": "CLIP", "model.vlm.path": str(tiny_clip)}
    quiet = {"trainer.enable_progress_bar": "false", "trainer.accelerator": "cpu"}
    values = {**SMALL, **vlm, **quiet, **{key.replace("__", "."): value for key, value in settings.items()}}
    return ["--runs", str(runs), "--name", name, *(x for k, v in values.items() for x in (f"--{k}", str(v)))]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start furl-fit, or other code, in a process of its own; what is still alive at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def _start(*argv: str, code: str = COMMAND) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *argv],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield _start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait until something is true; returns it."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return result


def steps_in(folder: Path) -> int:
    """The environment steps that a run's folder has a checkpoint of, -1 where there is none."""
    saved = sorted((folder / "checkpoints").glob("step-*.ckpt"))
    return int(saved[-1].stem.removeprefix("step-")) if saved else -1


def last_line(text: str) -> str:
    """The message of furl-fit in its output."""
    return [line for line in text.splitlines() if line.startswith("furl-fit:")][-1]


# -- power cuts and kill -9


def test_a_save_killed_at_any_moment_leaves_a_whole_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each file that it opens, renames, links or removes, and in the middle of each write."""
    save, found = Checkpoints.save, []

    def try_all(self: Checkpoints, trainer: Trainer) -> None:
        data: FuRLDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if data.env_steps == 60:
            before = tmp_path / "before"
            shutil.copytree(self.folder, before)

            def try_it(**moment: int) -> bool:
                died = _died(lambda: save(self, trainer), **moment)
                found.append((died, int(load_whole(self.folder / "last.ckpt")["FuRLDataModule"]["env_steps"])))
                shutil.rmtree(self.folder)
                shutil.copytree(before, self.folder)
                return died

            event = 1
            while try_it(event=event):
                event += 1
            for size in range(1_000, 400_000, 40_000):
                try_it(size=size)
        save(self, trainer)

    monkeypatch.setattr(Checkpoints, "save", try_all)
    run("killed", data__env_steps=100, data__checkpoints__every=20)
    died = [steps for death, steps in found if death]
    assert {steps for death, steps in found if not death} == {60}
    assert set(died) == {40, 60} and len(died) > 20
    assert not list((tmp_path / "killed" / "checkpoints").rglob("*.part"))


def _died(save: Callable[[], None], event: int = 0, size: int = 0) -> bool:
    """Save in a forked process that ends before its n-th change to a file system, or at a file's n-th byte."""
    child = os.fork()
    if not child:
        seen = 0

        def end_it(name: str, _: Any) -> None:
            nonlocal seen
            if name in ("open", "os.rename", "os.link", "os.remove", "os.mkdir"):
                seen += 1
                if seen == event:
                    os._exit(9)

        if event:
            sys.addaudithook(end_it)
        if size:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            save()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1), "the save failed of itself"
    return status != 0


def test_a_name_is_given_to_flushed_contents_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what a power cut needs: the contents reach the disk before the name, and the name before we go on."""
    flushed: list[int] = []
    unflushed: list[Path] = []
    replace, fsync = os.replace, os.fsync

    def note_fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        if Path(source).stat().st_ino not in flushed:
            unflushed.append(target)
        flushed.clear()
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    first, second = tmp_path / "new" / "first", tmp_path / "new" / "second"
    write_file(first, lambda part: part.write_bytes(b"contents"))
    assert not unflushed and flushed == [first.parent.stat().st_ino]
    flushed.append(first.stat().st_ino)
    link_file(first, second)
    assert not unflushed and flushed == [first.parent.stat().st_ino]
    assert second.read_bytes() == b"contents"


# -- damaged files


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """The folder of a run with checkpoints of 20, 40 and 60 steps."""
    runs = tmp_path_factory.mktemp("short")
    settings = {"data__env_steps": 60, "data__checkpoints__every": 20, "data__checkpoints__keep": 3}
    assert fit(arguments(runs, "short", tiny_clip, **settings)) == 0
    return runs / "short"


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 0x10
    path.write_bytes(contents)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink], ids=["truncated", "flipped", "missing"])
@pytest.mark.parametrize("victim", ["step-000000060.ckpt", "rings/000000040-000000060-*"])
def test_a_damaged_file_is_named_and_the_one_before_offered(
    damage: Callable[[Path], None], victim: str, short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written."""
    if victim.startswith("step") and damage is Path.unlink:
        pytest.skip("last.ckpt is another name of it")
    folder = tmp_path / "short"
    shutil.copytree(short_run, folder)
    (folder / "checkpoints" / "last.ckpt").unlink()
    os.link(folder / "checkpoints" / "step-000000060.ckpt", folder / "checkpoints" / "last.ckpt")
    (path,) = (folder / "checkpoints").glob(victim)
    damage(path)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    again = ["--runs", str(tmp_path), "--name", "short", "--data.env_steps", "80", "--ckpt_path", "last"]
    assert fit(again) == 2
    line = last_line(capsys.readouterr().err)
    assert (path.name if victim.startswith("rings") else "last.ckpt") in line
    offered = re.search(r"--ckpt_path (\S+) \(step 40\)", line)
    assert offered and "is whole" in line
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_the_checkpoint_before_goes_on_and_replaces_what_came_after(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming from 40 of 60 steps, then further: bit-equal where both were, and the damaged one is gone."""
    folder = tmp_path / "short"
    shutil.copytree(short_run, folder)
    _flip(folder / "checkpoints" / "step-000000060.ckpt")
    offered = folder / "checkpoints" / "step-000000040.ckpt"
    assert fit(["--runs", str(tmp_path), "--name", "short", "--ckpt_path", str(offered)]) == 0
    assert_same(load(short_run), load(folder))
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        load_whole(checkpoint)


def test_any_flipped_bit_of_a_checkpoint_is_noticed_or_means_nothing(short_run: Path, tmp_path: Path) -> None:
    whole = (short_run / "checkpoints" / "last.ckpt").read_bytes()
    contents = load_checkpoint(short_run / "checkpoints" / "last.ckpt")
    draw, path, noticed = random.Random(0), tmp_path / "flipped.ckpt", 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            assert_same(contents, load_checkpoint(path))
        except DamagedFile:
            noticed += 1
    assert noticed > 75


# -- what resuming refuses and allows


def test_resuming_another_run_names_each_difference(
    short_run: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"data__seeds": "[3]", "data__env__goal": "random", "model__sac__hidden": "[16]", "data__env_steps": 80}
    before = {p: p.stat().st_mtime_ns for p in short_run.rglob("*")}
    changed = arguments(short_run.parent, "short", tiny_clip, **settings)
    assert fit([*changed, "--ckpt_path", "last"]) == 2
    line = last_line(capsys.readouterr().err)
    for difference in (
        "drawer-close/3, the checkpoint's is drawer-close/0",
        "data.env.goal is random, the checkpoint's is fixed",
        "model.sac.hidden is [16], the checkpoint's is [32, 32]",
    ):
        assert difference in line
    assert before == {p: p.stat().st_mtime_ns for p in short_run.rglob("*")}


def test_the_earlier_embedded_model_is_named() -> None:
    """Where a run made with it is resumed with the present one, and only there."""
    earlier = EmbeddedCLIP()
    theirs = {"model.vlm": f"embedded of width 256, fingerprint {earlier.fingerprint[:16]}", "data.env.goal": "fixed"}
    ours = {"model.vlm": "embedded of width 128, fingerprint 0123456789abcdef", "data.env.goal": "fixed"}
    with pytest.raises(OtherRun, match="of earlier versions is EmbeddedCLIP today"):
        refuse_other_run({"identity": theirs}, ours)
    with pytest.raises(OtherRun, match=r"data\.env\.goal is random, the checkpoint's is fixed$"):
        refuse_other_run({"identity": theirs}, theirs | {"data.env.goal": "random"})


def test_resuming_allows_another_length_evaluation_log_and_workers(short_run: Path, tmp_path: Path) -> None:
    shutil.copytree(short_run, tmp_path / "short")
    changes = {"data.env_steps": 80, "data.evaluation.every": 70, "model.log_every": 10}
    changes |= {"data.collection.num_workers": 1, "data.checkpoints.keep": 2}
    flags = [x for key, value in changes.items() for x in (f"--{key}", str(value))]
    assert fit(["--runs", str(tmp_path), "--name", "short", "--ckpt_path", "last", *flags]) == 0
    saved = load(tmp_path / "short")
    assert saved["FuRLDataModule"]["env_steps"] == 80
    assert {line.split(",")[0] for line in saved["metrics"] if "eval/success" in line} == {"60", "70", "80"}


def test_another_runs_folder_is_not_resumed_into(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of one run under the name of another that has begun would mix the two up."""
    for name in ("short", "other"):
        shutil.copytree(short_run, tmp_path / name)
    checkpoint = tmp_path / "short" / "checkpoints" / "last.ckpt"
    assert fit(["--runs", str(tmp_path), "--name", "other", "--ckpt_path", str(checkpoint)]) == 2
    assert f"the run folder {tmp_path / 'other'} exists already" in last_line(capsys.readouterr().err)


# -- a learner that breaks


def test_a_nan_stops_with_the_agents_name_and_a_checkpoint_from_before(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One agent's reward becomes NaN: its name, the step, and finite parameters on disk."""
    sample = FuRLDataModule.sample

    def poisoned(self: FuRLDataModule) -> Batch:
        batch = sample(self)
        if self.env_steps >= 70:
            batch.transitions.reward[1, 0] = torch.nan
        return batch

    monkeypatch.setattr(FuRLDataModule, "sample", poisoned)
    settings = {
        "data__seeds": "[0, 1]",
        "data__env_steps": 100,
        "data__collection__start_steps": 20,
        "data__checkpoints__every": 40,
    }
    assert fit(arguments(tmp_path, "nan", tiny_clip, **settings)) == 1
    line = last_line(capsys.readouterr().err)
    assert "losses of drawer-close/1 are no finite numbers at step 70" in line
    assert "all up to step 40 is saved in" in line
    saved = load_whole(tmp_path / "nan" / "checkpoints" / "last.ckpt")
    assert all(values.isfinite().all() for values in saved["state_dict"].values())


def test_parameters_that_are_no_numbers_are_not_saved(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = Checkpoints.save

    def broken(self: Checkpoints, trainer: Trainer) -> None:
        if trainer.datamodule.env_steps == 20:  # type: ignore[attr-defined]
            module = trainer.lightning_module
            assert isinstance(module, FuRLModule) and module.built.vlm_agent is not None
            module.built.vlm_agent.log_alpha.data[0] = torch.inf
        save(self, trainer)

    monkeypatch.setattr(Checkpoints, "save", broken)
    assert fit(arguments(tmp_path, "inf", tiny_clip, data__env_steps=40, data__checkpoints__every=20)) == 1
    line = last_line(capsys.readouterr().err)
    assert "parameters of drawer-close/0 are no finite numbers at step 20; all up to step 0 is saved" in line


# -- a full disk


def test_a_full_disk_ends_the_save_and_not_the_run(
    start: Callable[..., subprocess.Popen[str]], run: Run, tiny_clip: Path, tmp_path: Path
) -> None:
    """No file of the process may grow for some saves: warnings, and the last good checkpoint stays; then all is
    as if the disk had never been full."""
    settings = {
        "data__env_steps": 400,
        "data__collection__start_steps": 300,
        "data__checkpoints__every": 100,
        "model__log_every": 50,
    }
    straight = run("straight", **settings)
    process = start(*arguments(tmp_path, "full", tiny_clip, **settings))
    wait_for(lambda: steps_in(tmp_path / "full") >= 100)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    good = steps_in(tmp_path / "full")
    assert process.stderr is not None
    lines = (line for line in process.stderr if "no checkpoint of step" in line)
    warnings = [next(lines), next(lines)]
    process.send_signal(signal.SIGSTOP)  # it would come to its end meanwhile
    assert all("File too large" in line and re.search(r"that of step \d+ is whole", line) for line in warnings)
    assert load_whole(tmp_path / "full" / "checkpoints" / "last.ckpt")["FuRLDataModule"]["env_steps"] >= good
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    process.send_signal(signal.SIGCONT)
    rest = process.communicate()[1]
    assert process.returncode == 0 and "Traceback" not in rest
    assert_same(straight, load(tmp_path / "full"), ignore=("journal",))


def test_a_run_whose_end_cannot_be_saved_says_so(
    start: Callable[..., subprocess.Popen[str]], tiny_clip: Path, tmp_path: Path
) -> None:
    """Status 1, the last good checkpoint whole, and no traceback."""
    process = start(*arguments(tmp_path, "full", tiny_clip, data__env_steps=200, data__checkpoints__every=50))
    wait_for(lambda: steps_in(tmp_path / "full") >= 50)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    text = process.communicate()[1]
    assert process.returncode == 1 and "Traceback" not in text
    assert re.search(r"the end of the run is not saved; all up to step \d+ is saved in", text)
    load_whole(tmp_path / "full" / "checkpoints" / "last.ckpt")


# -- signals and workers


def test_ctrl_c_saves_and_the_printed_command_goes_on(
    start: Callable[..., subprocess.Popen[str]], run: Run, tiny_clip: Path, tmp_path: Path
) -> None:
    """The whole process group gets it, workers too, in the middle of an episode; status 130; then bit-equal."""
    settings = {
        "data__env_steps": 150,
        "data__collection__start_steps": 50,
        "data__collection__num_workers": 1,
        "model__log_every": 50,
    }
    straight = run("straight", **settings)
    process = start(*arguments(tmp_path, "stopped", tiny_clip, **settings))
    wait_for(lambda: (tmp_path / "stopped" / "metrics.csv").exists())
    os.killpg(process.pid, signal.SIGINT)
    text = process.communicate()[1]
    assert process.returncode == 130 and "Traceback" not in text
    message, command = text.split("go on with:\n")
    assert re.search(r"stopped by SIGINT; all up to step (\d+) is saved in", message)
    assert 0 < steps_in(tmp_path / "stopped") < 150
    name, *argv = command.strip().split()
    assert name == "furl-fit" and fit(argv) == 0
    assert_same(straight, load(tmp_path / "stopped"), ignore=("journal",))


def test_sigterm_before_training_and_twice_in_it(
    start: Callable[..., subprocess.Popen[str]], tiny_clip: Path, tmp_path: Path
) -> None:
    """143 where there is nothing to finish, and the folder can be used again; the second signal ends at once."""
    folder = tmp_path / "early"
    argv = arguments(tmp_path, "early", tiny_clip)
    process = start(*argv)
    wait_for((folder / "config.yaml").exists)
    process.send_signal(signal.SIGTERM)
    text = process.communicate()[1]
    assert process.returncode == 143 and "Traceback" not in text
    assert steps_in(folder) > -1 or "nothing is saved yet" in text
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    long = {
        "env.episode_steps": 500,
        "env_steps": 1000,
        "collection.start_steps": 500,
        "collection.steps_per_iteration": 500,
    }
    process = start(*argv, *(x for name, value in long.items() for x in (f"--data.{name}", str(value))))
    wait_for(lambda: steps_in(folder) == 0)
    time.sleep(0.5)  # training is under way, and an iteration takes seconds
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: process.poll() is None)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM
    assert load_whole(folder / "checkpoints" / "last.ckpt")["FuRLDataModule"]["env_steps"] == 0


def test_an_evaluation_that_a_signal_cut_off_is_made_up_for(
    run: Run, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after its episode; parameters are saved; metrics are the same in the end."""
    settings = {
        "data__env_steps": 60,
        "data__evaluation__every": 20,
        "data__evaluation__episodes": 3,
        "pictures": "false",
    }
    straight = run("straight", **settings)
    act, acted = DeterministicPolicy.forward, []

    def interrupt(self: DeterministicPolicy, tensordict: TensorDictBase) -> TensorDictBase:
        acted.append(1)
        if len(acted) == 170:  # in the second evaluation's first episode
            os.kill(os.getpid(), signal.SIGTERM)
        return act(self, tensordict)

    monkeypatch.setattr(DeterministicPolicy, "forward", interrupt)
    assert fit(arguments(tmp_path, "stopped", tiny_clip, **settings)) == 143
    assert steps_in(tmp_path / "stopped") == 40 and len(acted) == 200
    assert_same(straight, run("stopped", "--ckpt_path", "last", **settings), ignore=("journal",))


def test_workers_do_not_outlive_the_parent(
    start: Callable[..., subprocess.Popen[str]], tiny_clip: Path, tmp_path: Path
) -> None:
    """Killed with -9 in training, or as soon as they have been started, or left by an error."""
    settings = {"data__collection__num_workers": 2, "data__seeds": "[0, 1]"}
    process = start(*arguments(tmp_path, "workers", tiny_clip, **settings))
    wait_for(lambda: steps_in(tmp_path / "workers") == 0)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.communicate()
    wait_for_the_end_of(children)

    for end in ("os.kill(os.getpid(), 9)", "1 / 0", "os._exit(0)"):
        code = (
            "import os\n"
            "from furl_lightning.envs.fleet import Fleet, SimulatorSettings\n"
            "from furl_lightning.envs.workers import Workers\n"
            "from furl_lightning.tasks import Agent\n"
            "def receive(workers, *args):\n"
            "    print(*(process.pid for process in workers._processes), flush=True)\n"
            f"    {end}\n"
            "Workers._receive = receive\n"
            "if __name__ == '__main__':\n"
            "    Fleet([Agent('reach', 0), Agent('reach', 1)], SimulatorSettings(), 2)\n"
        )
        script = tmp_path / "start_workers.py"
        script.write_text(code)
        process = start(code=f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
        children = process.communicate(timeout=60)[0].split()
        assert len(children) == 2, end
        wait_for_the_end_of(children)


def wait_for_the_end_of(processes: list[str]) -> None:
    wait_for(lambda: not any(_alive(int(process)) for process in processes), 30)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
