"""furl-sweep: trials on a real Ray, killed, stopped, moved from node to node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from furl_lightning.commands.fit import fit
from furl_lightning.sweep.board import LOST, Board
from furl_lightning.sweep.command import sweep
from furl_lightning.sweep.plan import Sweep, shares
from furl_lightning.sweep.run_storage import RunStorage
from furl_lightning.sweep.trial import Place, TrialFailed, TrialRefused, newest_whole, run, steps_made, why
from furl_lightning.training.checkpoint import load_checkpoint

from .conftest import assert_same

SECONDS = 540.0
"""For whatever is waited for."""
TINY = {
    "model": {"sac": {"hidden": [16, 16]}, "alignment": {"hidden": 8, "width": 8}, "log_every": 10},
    "data": {
        "goal_image": False, "env_steps": 100, "collection": {"start_steps": 50, "steps_per_iteration": 10},
        "replay": {"batch_size": 8, "size": 500}, "memory": {"size": 500}, "checkpoints": {"every": 10},
    },
    "trainer": {"accelerator": "cpu"},
    "pictures": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """A folder with a sweep file: 2 methods x 2 tasks x 2 seeds in 4 trials of two agents."""
    folder = tmp_path_factory.mktemp("sweep")
    tiny = {**TINY, "model": {**TINY["model"], "vlm": {"class_path": "CLIP", "init_args": {"path": str(tiny_clip)}}}}  # type: ignore[dict-item]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    (folder / "rates.yaml").write_text("model: {sac: {lr: 3.0e-4}, alignment: {lr: 3.0e-4}}\n")
    (folder / "quick.yaml").write_text("base: [rates.yaml]\n")
    plan = {
        "methods": {"furl": [], "quick": [str(folder / "quick.yaml")]},
        "tasks": ["drawer-close", "reach"],
        "seeds": [0, 1],
        "agents_per_trial": 2,
        "common": [str(folder / "tiny.yaml")],
        "runs": str(folder / "runs"),
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder


class Driver:
    """``furl-sweep`` as a user starts it."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.argv = ["--config", str(folder / "plan.yaml"), *flags]
        self.name = next((flags[i + 1] for i, flag in enumerate(flags) if flag == "--name"), "plan")
        self.folder = folder / "runs" / self.name
        code = "from furl_lightning.cli import furl_sweep; furl_sweep()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *self.argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def end(self) -> tuple[int, str]:
        """Wait; returns exit status and output."""
        output = self.process.communicate(timeout=SECONDS)[0]
        return self.process.returncode, output

    def trials(self) -> dict[str, Any]:
        """What ``sweep.json`` says."""
        path = self.folder / "sweep.json"
        return json.loads(path.read_text())["trials"] if path.exists() else {}

    def wait(self, holds: Callable[[dict[str, Any]], Any]) -> Any:
        """Wait until something holds of ``sweep.json``; returns it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            value = holds(self.trials())
            if value:
                return value
            if self.process.poll() is not None:
                raise AssertionError(self.end())
            time.sleep(0.05)
        raise AssertionError(f"nothing came in {SECONDS} s: {self.trials()}")


def in_training(folder: Path, trials: dict[str, Any]) -> str | None:
    """The name of a trial that has begun to learn and has a way to go."""
    for name, trial in trials.items():
        made = max((folder / name / "checkpoints").glob("step-*.ckpt"), default=None)
        if trial["state"] == "running" and trial["pid"] and made and 20 <= int(made.stem.removeprefix("step-")) < 80:
            return name
    return None


def final(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


def assert_as_undisturbed(driver: Driver, undisturbed: Path) -> None:
    """Bit-equal checkpoints: parameters, optimizers, random states, everything."""
    for name in driver.trials():
        assert_same(final(driver.folder / name), final(undisturbed / name), name, ignore=("settings",))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """The sweep's folder after a whole sweep on local Ray with two workers."""
    pytest.importorskip("ray", reason="furl-sweep needs the extra 'ray'")
    driver = Driver(folder, "--num_cpus", "2")
    status, output = driver.end()
    assert status == 0, output
    assert "plan: 4 finished" in output
    return driver.folder


def test_all_trials_end_and_a_report_is_made(undisturbed: Path) -> None:
    trials = json.loads((undisturbed / "sweep.json").read_text())["trials"]
    assert [(t["state"], t["attempts"], t["env_steps"]) for t in trials.values()] == [("finished", 1, 100)] * 4
    rows = (undisturbed / "report" / "table.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[:4] for row in rows) == [
        ["fixed", method, task, "2"] for method in ("furl", "quick") for task in ("drawer-close", "reach")
    ]
    assert (undisturbed / "report" / "index.html").exists()


def test_a_killed_worker_changes_nothing(folder: Path, undisturbed: Path) -> None:
    driver = Driver(folder, "--name", "killed", "--num_cpus", "1", "--methods", "{furl: []}", "--seeds", "[0]")
    name = driver.wait(lambda trials: in_training(driver.folder, trials))
    fit = driver.trials()[name]["pid"]
    worker = int(Path(f"/proc/{fit}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert b"ray::" in Path(f"/proc/{worker}/cmdline").read_bytes()
    os.kill(worker, signal.SIGKILL)
    status, output = driver.end()
    assert status == 0, output
    assert driver.trials()[name]["attempts"] == 2
    assert_as_undisturbed(driver, undisturbed)


def test_the_table_names_why_an_attempt_failed(folder: Path, undisturbed: Path) -> None:
    driver = Driver(folder, "--name", "named", "--num_cpus", "1", "--methods", "{furl: []}", "--seeds", "[0]")
    name = driver.wait(lambda trials: in_training(driver.folder, trials))
    first = driver.trials()[name]["pid"]
    os.kill(first, signal.SIGKILL)
    again = driver.wait(lambda trials: trials[name]["attempts"] == 2 and trials[name]["state"] == "running" and trials)
    assert again[name]["why"] == "killed by signal 9 (SIGKILL)" and again[name]["pid"] != first
    status, output = driver.end()
    assert status == 0, output
    assert f"{name}  waiting: killed by signal 9 (SIGKILL)" in output
    assert (
        "finished         100          2   127.0.0.1" in output and "; before: killed by signal 9 (SIGKILL)" in output
    )
    assert_as_undisturbed(driver, undisturbed)


def test_a_stopped_sweep_goes_on_without_what_is_finished(folder: Path, undisturbed: Path) -> None:
    flags = ["--name", "stopped", "--num_cpus", "1", "--methods", "{furl: []}"]
    driver = Driver(folder, *flags)

    def one_ended_one_trains(trials: dict[str, Any]) -> Any:
        return any(t["state"] == "finished" for t in trials.values()) and in_training(driver.folder, trials)

    second = driver.wait(one_ended_one_trains)
    driver.process.send_signal(signal.SIGINT)
    status, output = driver.end()
    assert status == 130, output
    assert "1 of 2 trials are finished" in output
    assert output.rstrip().endswith(f"furl-sweep {' '.join(driver.argv[:3])} stopped --num_cpus 1 --methods "
                                    "'{furl: []}' --resume")  # fmt: skip
    (first,) = [name for name in driver.trials() if name != second]
    assert 0 < final(driver.folder / second)["FuRLDataModule"]["env_steps"] < 100  # it saved when it was asked to stop
    before = times_of(driver.folder / first)
    status, output = Driver(folder, *flags, "--resume").end()
    assert status == 0, output
    assert times_of(driver.folder / first) == before
    assert driver.trials()[first]["attempts"] == 1
    assert driver.trials()[second]["attempts"] == 2
    assert_as_undisturbed(driver, undisturbed)


def times_of(run_folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}


CLUSTER = """
import sys, logging, os
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", http_proxy="http://127.0.0.1:9")
import ray
from ray.cluster_utils import Cluster
node = dict(num_cpus=1, object_store_memory=10**8)
cluster = Cluster(initialize_head=True, head_node_args=dict(include_dashboard=False, **node))
other = cluster.add_node(**node)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(other, allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def test_a_removed_node_loses_nothing(folder: Path, undisturbed: Path) -> None:
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert cluster.stdin is not None and cluster.stdout is not None
    try:
        address = cluster.stdout.readline().strip()
        driver = Driver(folder, "--name", "moved", "--address", address, "--methods", "{furl: []}")
        driver.wait(lambda trials: len(trials) == 2 and all(t["state"] == "running" for t in trials.values()))
        driver.wait(lambda trials: in_training(driver.folder, trials))
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline().strip() == "removed"
        status, output = driver.end()
        assert status == 0, output
        assert sorted(trial["attempts"] for trial in driver.trials().values()) == [1, 2]
        assert_as_undisturbed(driver, undisturbed)
    finally:
        cluster.communicate("\n", timeout=60)


# -- one trial, without Ray


def test_a_trial_goes_from_node_to_node_through_storage(folder: Path, tmp_path: Path) -> None:
    (trial,) = plan(folder, methods={"furl": []}, seeds=[0], agents_per_trial=2).trials()
    place = Place(tmp_path / "none", f"file://{tmp_path}/storage", tmp_path, 1, False)
    there = tmp_path / "storage" / trial.name / "checkpoints"
    assert not run(trial, place, lambda pid, steps: newest_whole(there) is not None and steps >= 20)
    stopped = newest_whole(there)
    assert stopped is not None and stopped.stem != "step-000000100"
    assert not (tmp_path / "none").exists()
    stopped.with_name("step-000000099.ckpt").write_bytes(b"torn by the end of a node")
    assert run(trial, place, lambda pid, steps: False)
    assert run(trial, place, lambda pid, steps: pytest.fail("it is complete: there is nothing to do"))
    mirror = RunStorage(f"file://{tmp_path}/storage", tmp_path / "fetched")
    mirror.fetch(trial.name)
    assert steps_made(tmp_path / "fetched" / trial.name) == 100
    whole = run_here(trial, tmp_path / "here")
    assert_same(final(tmp_path / "fetched" / trial.name), final(whole), ignore=("settings",))
    log = (tmp_path / "storage" / f"{trial.name}.log").read_text()
    assert "stopped by SIGTERM" in log


def run_here(trial: Any, folder: Path) -> Path:
    folder.mkdir()
    assert run(trial, Place(folder, None, folder, 1, False), lambda pid, steps: False)
    return folder / trial.name


def test_a_trial_tells_what_can_be_tried_again(folder: Path, tmp_path: Path) -> None:
    (trial,) = plan(folder, methods={"furl": []}, seeds=[0], agents_per_trial=2).trials()
    with pytest.raises(TrialRefused, match="runs must lie on storage that all nodes share"):
        run(trial, Place(tmp_path / "elsewhere", None, tmp_path, 1, False), lambda pid, steps: False)

    def kill(pid: int, steps: int) -> bool:
        with contextlib.suppress(ProcessLookupError):  # the last report comes when it is gone
            os.kill(pid, signal.SIGKILL)
        return False

    with pytest.raises(TrialFailed, match=r"^killed by signal 9 \(SIGKILL\)$"):
        run(trial, Place(tmp_path, None, tmp_path, 1, False), kill)


TRACKER = """
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 2 leaked
  warnings.warn('resource_tracker: There appear to be %d '
"""
TRACEBACK = """Traceback (most recent call last):
  File "learner.py", line 3, in update
    loss.backward()
RuntimeError: no room
 for 3 GB
"""


@pytest.mark.parametrize(
    ("status", "log", "reason"),
    [
        (-signal.SIGKILL, f"furl-fit: no checkpoint of step 5: disk full\n{TRACKER}", "killed by signal 9 (SIGKILL)"),
        (-40, "", "killed by signal 40 (no name)"),
        (
            1,
            f"{TRACEBACK}furl-fit: worker 1 failed\n{TRACKER}",
            "furl-fit: worker 1 failed",
        ),
        (1, f"furl-fit: no checkpoint of step 5\n{TRACEBACK}{TRACKER}", "RuntimeError: no room"),
        (
            2,
            f"furl-fit: seeds is empty\nException ignored in: <EGL>\n{TRACEBACK}",
            "furl-fit: seeds is empty",
        ),
        (3, TRACKER, "furl-fit ended with status 3"),
    ],
)
def test_why_an_attempt_failed(status: int, log: str, reason: str, tmp_path: Path) -> None:
    before = f"furl-fit: of the attempt before\n{TRACEBACK}"
    (tmp_path / "log").write_text(before + log)
    assert why(status, tmp_path / "log", len(before)) == reason


def test_the_board_hears_who_runs() -> None:
    """What an attempt says when the next has begun does not make that one wait; one that is lost is named."""
    board = Board()
    board.begin("trial", "first", "a")
    board.report("trial", "first", 17, 50)
    board.begin("trial", "second", "b")
    board.report("trial", "first", 17, 60)
    board.end("trial", "first", "killed")
    notice = board.read()[1]["trial"]
    assert (notice.worker, notice.node, notice.pid, notice.env_steps, notice.attempts) == ("second", "b", None, 50, 2)
    assert notice.why == LOST
    board.end("trial", "second", "killed by signal 9")
    board.begin("trial", "third", "a")
    assert (notice.worker, notice.why) == ("third", "killed by signal 9")
    board.end("trial", "third", "")
    assert (notice.worker, notice.attempts, notice.why) == (None, 3, "killed by signal 9")


# -- what cutting a population changes


@pytest.mark.parametrize("row", [0, 1])
def test_a_cut_population_learns_the_same_up_to_rounding(cut: list[Path], row: int) -> None:
    whole, alone = cut[0], cut[1 + row]
    for steps in (0, 50, 60, 100):
        ours, theirs = (load_checkpoint(run / "checkpoints" / f"step-{steps:09d}.ckpt") for run in (whole, alone))
        for stream, states in ours["FuRLDataModule"]["randomness"].items():
            assert torch.equal(states[row], theirs["FuRLDataModule"]["randomness"][stream][0]), (steps, stream)
        for name, values in ours["state_dict"].items():
            if name.startswith("vlm."):
                continue
            expected = theirs["state_dict"][name][0]
            if steps <= 50 and name != "reward.text_embedding":
                assert torch.equal(values[row], expected), (steps, name)
            error = (values[row] - expected).abs().max() / expected.abs().max().clamp_min(1e-9)
            assert error < 1e-4, (steps, name)
    ours, theirs = (load_steps(run) for run in (whole, alone))
    for field in ("observation", "action", "reward"):
        assert torch.equal(ours[field][:50, row], theirs[field][:50, 0]), field
    torch.testing.assert_close(ours["embedding"][:, row], theirs["embedding"][:, 0], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def cut(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of two agents, then of each alone."""
    runs = tmp_path_factory.mktemp("cut")
    tasks = {"both": "[drawer-close, reach]", "first": "[drawer-close]", "second": "[reach]"}
    for name, names in tasks.items():
        argv = ["--config", str(folder / "tiny.yaml"), "--data.checkpoints.keep", "100", "--data.tasks", names]
        argv += ["--runs", str(runs), "--name", name, "--trainer.enable_progress_bar", "false"]
        assert fit(argv) == 0
    return [runs / name for name in tasks]


def load_steps(run: Path) -> dict[str, torch.Tensor]:
    """A run's transitions, each [T, A, ...]."""
    entries = final(run)["FuRLDataModule"]["journal"]
    parts = [load_file(run / "checkpoints" / entry["file"]) for entry in entries]
    return {
        name: torch.cat([part[name] for part in parts]) for name in ("observation", "action", "reward", "embedding")
    }


# -- the sweep file


def plan(folder: Path, **changed: Any) -> Sweep:
    return Sweep(**{**yaml.safe_load((folder / "plan.yaml").read_text()), **changed})


@pytest.mark.parametrize(
    ("tasks", "seeds", "size", "sizes"),
    [(3, 2, 1, [1] * 6), (3, 2, 2, [2, 1, 2, 1]), (3, 2, 3, [3, 3]), (3, 5, 7, [6, 6, 3]), (1, 3, 10, [3])],
)
def test_shares_are_the_population(tasks: int, seeds: int, size: int, sizes: list[int]) -> None:
    names = [f"task{i}" for i in range(tasks)]
    cut = shares(names, list(range(seeds)), size)
    assert [len(t) * len(s) for t, s in cut] == sizes
    agents = [(task, seed) for t, s in cut for task in t for seed in s]
    assert sorted(agents) == [(name, seed) for name in names for seed in range(seeds)]


def test_names_do_not_depend_on_what_else_is_in_the_sweep(folder: Path) -> None:
    few = {trial.name: trial.digest for trial in plan(folder, seeds=[1]).trials()}
    more = {trial.name: trial.digest for trial in plan(folder, seeds=[0, 1, 2], goals=["random", "fixed"]).trials()}
    assert len(few) == 2 and len(more) == 12
    assert few.items() <= more.items()


def test_a_trial_carries_the_bases_of_its_configurations(folder: Path) -> None:
    (trial, *_) = plan(folder, methods={"quick": [str(folder / "quick.yaml")]}).trials()
    _, rates, quick, share = map(yaml.safe_load, trial.configs)
    assert rates == {"model": {"sac": {"lr": 3e-4}, "alignment": {"lr": 3e-4}}}
    assert quick == {}
    assert share == {"data": {"env": {"goal": "fixed"}, "tasks": list(trial.tasks), "seeds": [0]}}


BAD = {
    "--sedes [0]": "unknown option 'sedes'; the nearest is 'seeds'",
    "--tasks drawer-clos": "tasks: unknown task 'drawer-clos'; the nearest is 'drawer-close'",
    "--goals [moving]": "",
    "--methods {furl:[none.yaml]}": "methods.furl: there is no file none.yaml (seen from ",
    "--methods {}": "methods is empty; name at least one",
    "--methods {a-b:[]}": "a method's name is made of letters, digits, _ and ., not 'a-b'",
    "--settings {data:{env_step:5}}": "method furl: unknown option 'data.env_step'; the nearest is 'data.env_steps'",
    "--settings {data:{env_steps:-10}}": "method furl: data.env_steps must be at least 1, not -10",
    "--settings {trainer:{devices:2}}": "",
    "--seeds []": "seeds is empty; give at least one",
    "--seeds [0,0]": "seeds has one twice: 0, 0",
    "--agents_per_trial 0": "agents_per_trial must be at least 1, not 0",
    "--cpus 0": "cpus must be above 0, not 0",
    "--gpus 2": "gpus must be at most 1, not 2: a trial trains on one device",
    "--gpus=-1": "gpus must be a share below 1 or a whole number, not -1",
    "--retries=-1": "retries must not be negative, but is -1",
    "--storage nosuch://bucket": "storage: ",
    "--name a/b": "--name must be a plain folder name such as 'mt10', not 'a/b'",
    "--resume": "there is no sweep to go on with in ",
    "--address ray://127.0.0.1:1": "--address takes auto or HOST:PORT",
    "--address 127.0.0.1:1": "no Ray at 127.0.0.1:1: nothing listens there; give the address that ray start --head ",
    "--address nohost": "no Ray at nohost: ",
    "--address 127.0.0.1:1 --num_cpus 2": "--num_cpus is of a Ray that is started here",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_one_line(flags: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="furl-sweep needs the extra 'ray'")
    text = flags.replace(":[", ": [").replace(":{", ": {").replace("step:", "step: ").replace("steps:", "steps: ")
    argv = [part.replace("\0", " ") for part in text.replace(": ", ":\0").replace("devices:2", "devices:\0002").split()]
    runs = tmp_path / "runs"
    assert sweep(["--config", str(folder / "plan.yaml"), "--runs", str(runs), *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"furl-sweep: {BAD[flags]}"), error
    assert error.count("\n") == 1
    assert not runs.exists()


def test_a_sweep_is_not_overwritten(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="furl-sweep needs the extra 'ray'")
    argv = ["--config", str(folder / "plan.yaml"), "--runs", str(tmp_path)]
    trials = {trial.name: {"digest": trial.digest} for trial in plan(folder).trials()}
    written = tmp_path / "plan" / "sweep.json"
    written.parent.mkdir()
    written.write_text(json.dumps({"trials": trials}))
    assert sweep(argv) == 2
    assert "exists already; go on with --resume, or choose another --name" in capsys.readouterr().err
    assert sweep([*argv, "--resume", "--settings", "{model: {sac: {lr: 1.0e-3}}}"]) == 2
    assert "was begun with other settings; choose another --name for these" in capsys.readouterr().err


def test_missing_ray_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert sweep(["--config", str(folder / "plan.yaml")]) == 2
    error = capsys.readouterr().err
    assert error == "furl-sweep: Ray is not installed; install it with: pip install 'furl_lightning[ray]'\n"
