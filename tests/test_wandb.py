"""Weights & Biases beside a run's own record; without it only what does not need it: ``tox -e wandb`` installs it."""

from __future__ import annotations

import csv
import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from furl_lightning.runs.wandb_run import FILE, as_one_run

from .conftest import Run

SAC = {"model__vlm": "null", "model__reward__source": "task", "model__relay__enabled": "false"}


def test_a_run_that_goes_on_has_the_id_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one has one of its own; what the user names stays, and other loggers are left alone."""
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    path = "pytorch_lightning.loggers.WandbLogger"

    def made(resumes: bool, **arguments: Any) -> dict[str, Any]:
        logger = Namespace(class_path=path, init_args=Namespace(**arguments))
        (result,) = as_one_run([logger], tmp_path, resumes)
        assert vars(logger.init_args) == arguments and result["class_path"] == "furl_lightning.runs.wandb_run.WandbRun"
        given: dict[str, Any] = result["init_args"]
        return given

    first, second = made(False, save_dir="."), made(False)
    assert first["id"] != second["id"] and first["name"] == tmp_path.name and first["save_dir"] == str(tmp_path)
    (tmp_path / FILE).write_text(f"{first['id']}\n")
    assert made(True)["id"] == first["id"] != made(False)["id"]
    assert made(True, id="mine", name="its name", save_dir="there") == {
        "id": "mine", "name": "its name", "save_dir": "there",
    }  # fmt: skip
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    assert made(True)["id"] == "theirs"
    other = Namespace(class_path="pytorch_lightning.loggers.CSVLogger", init_args=Namespace(save_dir="."))
    for logger in (None, True, False, other):
        assert as_one_run(logger, tmp_path, True) is logger


@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb is not installed")
def test_one_wandb_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: stopped and resumed, it is one run, no step stands twice in it, none is missing; with pictures."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = {**SAC, "model__log_every": 10, "data__evaluation__every": 30, "data__env__obs": "pixels"}
    settings["data__env__pixel_size"] = 21
    flags = ["--pictures", "true", "--trainer.logger", "WandbLogger", "--trainer.logger.project", "test"]
    run("x", *flags, **settings, data__env_steps=60)
    run("x", *flags, "--ckpt_path", "last", **settings, data__env_steps=100)
    files = sorted((tmp_path / "x/wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    first, second = (rows(path) for path in files)
    identity = (tmp_path / "x" / FILE).read_text().strip()
    assert [path.stem for path in files] == [f"run-{identity}"] * 2
    with (tmp_path / "x/metrics.csv").open(newline="") as file:
        logged = {int(row["env_steps"]) for row in csv.DictReader(file)}
    steps = [*first, *second]
    assert max(first) == 60 < min(second) and sorted(steps) == sorted(logged) and len(set(steps)) == len(steps)
    for step, names in {**first, **second}.items():
        assert {"trainer/global_step", "perf/update_ms"} <= names or step % 10, step
    films = [step for step, names in {**first, **second}.items() if any("film/drawer-close" in name for name in names)]
    assert films == [30, 60, 90, 100], first[30]


def rows(path: Path) -> dict[int, set[str]]:
    """What a file of W&B's holds: names by W&B's own step, which must stand there once."""
    from wandb.proto import wandb_internal_pb2

    Record: Any = vars(wandb_internal_pb2)["Record"]

    result: dict[int, set[str]] = {}
    for data in records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            names = {item.key or "/".join(item.nested_key) for item in record.history.item}
            step = record.history.step.num
            assert step not in result
            result[step] = names
    return result


def records(file: bytes, block: int = 32_768) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: parts with checksum, length and kind, none across two blocks."""
    at, parts = 7, b""
    while at + 7 <= len(file):
        if block - at % block < 7:  # no room for another part
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", file, at)
        parts += file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""
