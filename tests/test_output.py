"""What becomes of a command whose output nobody reads: its files are written, and its status is that of other tools."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from furl_lightning.utils.durable import PART, is_other, write_folder

from .conftest import SMALL

DRIVER = """
import json, os, sys
import torch
torch.set_num_threads(1)
from furl_lightning import cli
import furl_lightning.commands.fit, furl_lightning.commands.evaluate, furl_lightning.commands.report
import furl_lightning.commands.oracle, furl_lightning.commands.probe, furl_lightning.sweep.command

statuses = []
for streams, command, *arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:  # as a process that a shell has started, but for the seconds of its imports
        for descriptor, stream in enumerate(streams.split("-"), start=1):
            if stream == "broken":
                reader, writer = os.pipe()
                os.close(reader)
                os.dup2(writer, descriptor)
                os.close(writer)
            elif stream == "full":
                os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
            else:
                os.close(descriptor)
                setattr(sys, {1: "stdout", 2: "stderr"}[descriptor], None)
        sys.argv = [command, *arguments]
        try:
            getattr(cli, command.replace("-", "_"))()
        except SystemExit as end:
            if streams == "broken-broken" and command == "furl-report":  # others spare the seconds of a whole exit
                raise
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""
SAC = {"model.vlm": "null", "model.reward.source": "task", "model.relay.enabled": "false"}
SHORT = {"data.env_steps": "30", "data.evaluation.every": "10", "data.collection.start_steps": "10"}
RUN = [part for key, value in {**SMALL, **SHORT, **SAC}.items() for part in (f"--{key}", value)]
COMMANDS = ("furl-fit", "furl-eval", "furl-probe", "furl-report", "furl-oracle", "furl-export", "furl-sweep")
BROKEN = 141
CASES: list[tuple[list[str], int]] = [
    # a run trains to its end
    (["broken-broken", "furl-fit", *RUN, "--trainer.accelerator", "cpu", "--name", "one"], 0),
    (["full-closed", "furl-fit", *RUN, "--trainer.accelerator", "cpu", "--pictures", "false", "--name", "two"], 0),
    *((["broken", command, "--help"], BROKEN) for command in COMMANDS),
    (["broken", "furl-fit", "--print_config"], BROKEN),
    (["broken-broken", "furl-report", "runs/one", "--out", "a"], BROKEN),
    (["broken", "furl-report", "runs/one", "--out", "a"], BROKEN),  # the report before it is one
    (["full", "furl-report", "runs/one", "--out", "b"], 1),
    (["closed", "furl-report", "runs/one", "--out", "c"], 0),
    (["broken", "furl-eval", "--ckpt_path", "runs/one", "--out", "a"], BROKEN),
    (["full-full", "furl-eval", "--ckpt_path", "runs/one", "--out", "b"], 1),
    # what is wrong is wrong, whether it can be said or not
    (["closed-broken", "furl-report", "nothing"], 2),
    (["closed-closed", "furl-fit", "--no_such_option", "1"], 2),
]


def test_nobody_reads(tmp_path: Path) -> None:
    cases = json.dumps([case for case, _ in CASES])
    done = subprocess.run([sys.executable, "-c", DRIVER, cases], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    statuses = dict(zip((" ".join(case) for case, _ in CASES), json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert statuses == {" ".join(case): status for case, status in CASES}
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert "furl-report: standard output cannot be written: No space left on device" in done.stderr
    for name in ("one", "two"):
        assert (tmp_path / f"runs/{name}/checkpoints/step-000000030.ckpt").is_file()
        assert "30,eval/success" in (tmp_path / f"runs/{name}/metrics.csv").read_text()
    for out in ("a", "b", "c"):
        assert {"index.html", "table.csv", "curves-fixed.png"} <= set(os.listdir(tmp_path / out))
    assert [json.loads((tmp_path / f"{out}/eval.json").read_text())["env_steps"] for out in ("a", "b")] == [30, 30]


def test_a_folder_left_half(tmp_path: Path) -> None:
    """The file that marks its kind is there before others, so the next call goes on with the folder."""
    out = tmp_path / "out"

    def write(folder: Path) -> str:
        for name in ("a.csv", "mark.csv", "z.png"):
            (folder / name).write_text(name)
        return "text"

    (out / "a.csv/in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.csv"):
        write_folder(out, "mark.csv", write)
    assert sorted(os.listdir(out)) == ["a.csv", "mark.csv"] and not is_other(out, "mark.csv")
    (out / "a.csv/in the way").rmdir()
    (out / "a.csv").rmdir()
    assert write_folder(out, "mark.csv", write) == "text"
    assert sorted(os.listdir(out)) == ["a.csv", "mark.csv", "z.png"]

    killed = tmp_path / "killed"
    (killed / PART).mkdir(parents=True)
    (killed / PART / "a.csv").touch()
    assert not is_other(killed, "mark.csv")
    write_folder(killed, "mark.csv", write)
    assert sorted(os.listdir(killed)) == ["a.csv", "mark.csv", "z.png"]

    def fail(folder: Path) -> Any:
        (folder / "a.csv").touch()
        raise KeyError

    with pytest.raises(KeyError):
        write_folder(tmp_path / "new", "mark.csv", fail)
    assert not is_other(tmp_path / "new", "mark.csv")
    (tmp_path / "new/thesis.tex").touch()
    assert is_other(tmp_path / "new", "mark.csv") and is_other(tmp_path / "new/thesis.tex", "mark.csv")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_reads_does_not_wait_for_the_end(unbuffered: str) -> None:
    """A line for people is there when it is said, whatever Python was told about buffers."""
    body = "lambda: print('here', file=sys.stderr) or int(sys.stdin.readline())"
    code = f"import sys; from furl_lightning.utils.output import run; run('x', {body})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stderr is not None
    is_there, _, _ = select.select([process.stderr], [], [], 20)
    process.communicate("3\n")
    assert is_there and process.returncode == 3
