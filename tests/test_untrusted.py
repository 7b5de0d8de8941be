"""Checkpoints and run folders of a stranger's: nothing but the package's own classes is imported or made from them."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from jsonargparse._typehints import ActionTypeHint

from furl_lightning.commands.class_options import foreign_classes
from furl_lightning.commands.evaluate import evaluate
from furl_lightning.commands.fit import fit
from furl_lightning.commands.options import fit_parser
from furl_lightning.training.checkpoint import load_whole
from furl_lightning.training.saved_settings import CLASS_OPTIONS, ForeignClass, NoSettings, safe_settings
from furl_lightning.training.trained import load
from furl_lightning.utils.errors import BadInput

from .conftest import SMALL
from .test_options import MINE

HOSTILE = """
from pathlib import Path
from pytorch_lightning import Callback
Path("{marker}").touch()


class Thing(Callback):
    def __init__(self, text: str = "") -> None:
        Path("{marker}-made").write_text(text)
"""
QUIET = ["--pictures", "false", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
SHORT = [part for key, value in SMALL.items() for part in (f"--{key}", value)]
SHORT += ["--data.env_steps", "20", "--data.collection.start_steps", "10", *QUIET]
SAC = ["--model.vlm", "null", "--model.reward.source", "task", "--model.relay.enabled", "false"]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run without a VLM."""
    runs = tmp_path_factory.mktemp("honest")
    assert fit([*SHORT, *SAC, "--runs", str(runs), "--name", "run"]) == 0
    return runs / "run"


@pytest.fixture
def stranger(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, where a module of the current folder leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("hostile.py").write_text(HOSTILE.format(marker=tmp_path / "imported"))
    Path("vlm.yaml").write_text("vlm: hostile.Thing\n")
    yield Path(shutil.copytree(honest, "runs/run"))
    sys.modules.pop("hostile", None)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def tamper(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = run / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    path.unlink()  # it is a second name of another file
    torch.save(checkpoint, path)


MODELS: list[Any] = [
    {"vlm": "hostile.Thing"},
    {"vlm": {"class_path": "hostile.Thing"}},
    {"vlm": {"class_path": "hostile.Thing", "init_args": {"text": "x"}}},
    {"vlm": '{"class_path": "hostile.Thing"}'},
    {"vlm": "[hostile.Thing]"},
    {"vlm": ["hostile.Thing"]},
    {"vlm": "vlm.yaml"},
    {"vlm": {"class_path": "CLIP", "init_args": {"path": {"class_path": "hostile.Thing"}}}},
    {
        "vlm": {
            "class_path": "CLIP",
            "init_args": {"path": "x"},
            "dict_kwargs": {"more": {"class_path": "hostile.Thing"}},
        }
    },
    {"vlm": {"class_path": "CLIP", "path": {"class_path": "hostile.Thing"}}},
    {"vlm": {"init_args": {"path": {"class_path": "hostile.Thing"}}}},
    {"vlm": {"class_path": "hostile.CLIP", "init_args": {"path": "x"}}},
    {"vlm": {"class_path": ["hostile.Thing"]}},
    {"vlm.class_path": "hostile.Thing"},
    {"vlm+": "hostile.Thing"},
    {"vlm.help": "hostile.Thing"},
    {"sac": {"class_path": "hostile.Thing"}},
    {"sac": "vlm.yaml"},
    {"class_path": "hostile.Thing"},
    '{"vlm": "hostile.Thing"}',
    "vlm.yaml",
]


CONFIGS = [
    "trainer: {callbacks: hostile.Thing}",
    "trainer: {callbacks: [hostile.Thing]}",
    "trainer: {callbacks: {class_path: hostile.Thing, init_args: {text: x}}}",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: x, mode: {class_path: hostile.Thing}}}]}",
    "trainer: {logger: hostile.Thing}",
    "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: elsewhere}}}",
    "trainer: {profiler: hostile.Thing}",
    "trainer: {accelerator: hostile.Thing}",
    "trainer: {plugins: [{class_path: hostile.Thing}]}",
    "trainer: {'callbacks+': [hostile.Thing]}",
    "trainer: {logger.class_path: hostile.Thing}",
    "trainer: {callbacks.help: hostile.Thing}",
    "trainer: '{callbacks: hostile.Thing}'",
    "trainer.callbacks: hostile.Thing",
    "model: {vlm: hostile.Thing}",
    "model: vlm.yaml",
    "model: {alignment: vlm.yaml}",
    "config: vlm.yaml",
    "base: [vlm.yaml]",
    "print_config: ''",
    "data: {prompts: {drawer-close: '${oc.env:HOME}'}}",
    "[hostile.Thing]",
]


@pytest.fixture(scope="module")
def settings_of(honest: Path) -> Callable[[], dict[str, Any]]:
    """Fresh copies of the run's settings."""
    text = (honest / "config.yaml").read_text()
    return lambda: dict(yaml.safe_load(text))


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    return fit_parser()


def laid_over(settings: dict[str, Any], change: Any) -> Any:
    """Settings with others put in, group by group."""
    if not isinstance(change, dict):
        return change
    for key, value in change.items():
        settings[key] = {**settings[key], **value} if isinstance(value, dict) and key in settings else value
    return settings


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("change", [*({"model": model} for model in MODELS), *map(yaml.safe_load, CONFIGS)], ids=str)
def test_hostile_settings(change: Any, settings_of: Callable[[], dict[str, Any]], parser: ArgumentParser) -> None:
    """None of them gets to a parser."""
    with pytest.raises((NoSettings, ForeignClass), match=r"config\.yaml") as refused:
        safe_settings(laid_over(settings_of(), change), parser, Path("config.yaml"))
    assert "\n" not in str(refused.value) and "hostile" not in sys.modules
    assert safe_settings(settings_of(), parser, Path("config.yaml"))["data"] == settings_of()["data"]


@pytest.mark.parametrize("model", MODELS[:2])
def test_a_hostile_checkpoint(model: Any, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(stranger, lambda saved: saved["settings"]["model"].update(model))
    assert evaluate(["--ckpt_path", str(stranger)]) == 2
    line = one_line(capsys)
    assert "hostile" not in sys.modules and not (tmp_path / "imported").exists()
    assert "last.ckpt sets model.vlm to hostile.Thing" in line
    assert line.endswith("if you trust it, give it yourself: --vlm hostile.Thing")


@pytest.mark.parametrize("text", [CONFIGS[0], "trainer: !!python/object/apply:hostile.Thing []"])
def test_a_hostile_run_folder(text: str, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = stranger / "config.yaml"
    is_plain = "!!" not in text
    changed = laid_over(yaml.safe_load(config.read_text()), yaml.safe_load(text)) if is_plain else None
    config.write_text(yaml.safe_dump(changed) if is_plain else text)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert fit(["--name", "run", "--ckpt_path", "last", "--data.env_steps", "30"]) == 2
    assert ("sets trainer.callbacks to hostile.Thing" if is_plain else "config.yaml is no YAML") in one_line(capsys)
    assert "hostile" not in sys.modules
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_class_that_the_user_names(stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The refusal's own option lets the run go on; its arguments are the user's too, not the folder's."""
    config = stranger / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["trainer"]["callbacks"] = {"class_path": "hostile.Thing", "init_args": {"text": "theirs"}}
    config.write_text(yaml.safe_dump(settings))
    again = ["--name", "run", "--ckpt_path", "last", "--data.env_steps", "30"]
    assert fit([*again, "--trainer.callbacks.text", "ours"]) == 2  # a part of it, which names no class
    repeat = shlex.split(one_line(capsys).partition("give it yourself: ")[2])
    assert repeat == foreign_classes(config.read_text())  # what a stopped run says to go on with
    assert repeat[0] == "--trainer.callbacks" and json.loads(repeat[1]) == settings["trainer"]["callbacks"]
    assert fit([*again, "--trainer.callbacks", "hostile.Thing"]) == 0
    assert (tmp_path / "imported-made").read_text() == ""


def test_a_vlm_of_the_users_is_named_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """As the refusal says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("mine_again.py").write_text(MINE)
    assert fit([*SHORT, "--model.vlm", "mine_again.Mine", "--name", "run"]) == 0
    capsys.readouterr()
    assert evaluate(["--ckpt_path", "runs/run"]) == 2
    repeat = shlex.split(one_line(capsys).partition("give it yourself: ")[2])
    assert evaluate(["--ckpt_path", "runs/run", *repeat]) == 0


def test_a_changed_file_is_said_to_be_changed(stranger: Path) -> None:
    for change in (
        lambda saved: saved["settings"]["model"].update(no_such=1),
        lambda saved: saved["settings"]["model"]["sac"].update(lr="fast"),
        lambda saved: saved["state_dict"].update(more=torch.zeros(1)),
    ):
        tamper(stranger, change)
        with pytest.raises(BadInput, match=r"last\.ckpt has been changed since furl-fit wrote it"):
            load(stranger)


def test_a_checkpoints_files_lie_beside_it(stranger: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"private")
    for name in ("../../../outside.safetensors", "rings/../../../../outside.safetensors", str(outside)):
        entry = {"file": name, "sha256": hashlib.sha256(b"private").hexdigest()}

        def change(saved: dict[str, Any], entry: dict[str, str] = entry) -> None:
            saved["FuRLDataModule"]["journal"][0].update(entry)

        tamper(stranger, change)
        (stranger / "checkpoints/step-000000020.ckpt").unlink(missing_ok=True)
        with pytest.raises(BadInput, match="its files lie in"):
            load_whole(stranger / "checkpoints/last.ckpt")


def test_a_link_out_of_the_folder(stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run goes on in its files; one of them may not be a file of the user's elsewhere."""
    private = tmp_path / "private"
    private.write_text("private")
    metrics = stranger / "metrics.csv"
    metrics.rename(stranger / "kept.csv")
    metrics.symlink_to(private)
    assert fit(["--name", "run", "--ckpt_path", "last", "--data.env_steps", "30"]) == 2
    assert f"metrics.csv is a link to {private}" in one_line(capsys) and private.read_text() == "private"
    metrics.unlink()
    metrics.symlink_to("kept.csv")
    stranger.joinpath("checkpoints").rename(tmp_path / "scratch")
    stranger.joinpath("checkpoints").symlink_to(tmp_path / "scratch")  # to where there is room
    assert fit(["--name", "run", "--ckpt_path", "last", "--data.env_steps", "30"]) == 0


def test_no_pickle(stranger: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "imported",)

    tamper(stranger, lambda saved: saved.update(extra=Payload()))
    for read in (load, load_whole):
        with pytest.raises(BadInput, match=r"damaged,? or no checkpoint"):
            read(stranger / "checkpoints/last.ckpt")
    assert not (tmp_path / "imported").exists()


def test_every_option_that_takes_a_class_is_known() -> None:
    takes_class = [
        action.dest
        for action in fit_parser()._actions
        if ActionTypeHint.is_subclass_typehint(action, all_subtypes=False) and not action.dest.endswith(".help")
    ]
    assert sorted(takes_class) == sorted(CLASS_OPTIONS)
