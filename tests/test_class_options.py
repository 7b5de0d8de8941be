"""Options of furl-fit that take a class: one or several, given in steps, and what is said where one cannot be made."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from furl_lightning.commands.class_options import begin_anew
from furl_lightning.commands.fit import fit, prepare
from furl_lightning.commands.options import fit_parser, read_arguments
from furl_lightning.utils.stopping import Stopping

from .conftest import Run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    """Making one takes longer than a test."""
    return fit_parser()


CLIP_P = "{class_path: CLIP, init_args: {path: /p}}"
LIV = ("LIV", "jasonyma/LIV", "float32")


@pytest.mark.parametrize(
    ("steps", "vlm"),
    [
        ([CLIP_P, "--model.vlm.precision bfloat16"], ("CLIP", "/p", "bfloat16")),
        ([CLIP_P, "{init_args: {precision: bfloat16}}"], ("CLIP", "/p", "bfloat16")),
        ([CLIP_P, "{precision: bfloat16}", "--model.vlm.path /q"], ("CLIP", "/q", "bfloat16")),
        ([CLIP_P, "{class_path: furl_lightning.vlm.CLIP}", "--model.vlm CLIP"], ("CLIP", "/p", "float32")),
        ([CLIP_P, "--model.vlm LIV"], LIV),
        ([CLIP_P, "LIV"], LIV),
        ([CLIP_P, "{class_path: LIV}", "--model.vlm.precision bfloat16"], ("LIV", "jasonyma/LIV", "bfloat16")),
        ([CLIP_P, '--model.vlm={"class_path":"LIV"}'], LIV),
        ([CLIP_P, "null", "--model.vlm LIV"], LIV),
        (["--model.vlm CLIP --model.vlm.path /p --model.vlm LIV"], LIV),
        (["{precision: bfloat16}", CLIP_P], ("CLIP", "/p", "bfloat16")),  # given of no class, so of any
        (["{class_path: Embedded, init_args: {precision: bfloat16}}", CLIP_P], ("CLIP", "/p", "float32")),
    ],
    ids=str,
)  # fmt: skip
def test_a_vlm_in_steps(steps: list[str], vlm: tuple[str, ...], parser: ArgumentParser, tmp_path: Path) -> None:
    """Flags and files keep what was given before, until another class is named: that begins with its own defaults.

    A file's ``base`` counts as a file before it.
    """
    argv: list[str] = []
    files = [step for step in steps if not step.startswith("--")]
    for number, step in enumerate(files):
        base = f"base: [{number - 1}.yaml]\n" if number else ""
        (tmp_path / f"{number}.yaml").write_text(f"{base}model: {{vlm: {step}}}\n")
    for number in range(len(files)):
        argv += ["--config", str(tmp_path / f"{number}.yaml")]
    flags = [part for step in steps if step.startswith("--") for part in step.split()]
    for arguments in (argv, argv[-2:])[: len(files)]:
        config = parser.parse_args(begin_anew(read_arguments([*arguments, *flags]).argv))
        name, path, precision = vlm
        assert config.model.vlm.class_path == f"furl_lightning.vlm.{name}"
        assert (config.model.vlm.init_args.path, config.model.vlm.init_args.precision) == (path, precision)


@pytest.mark.parametrize(
    ("option", "name", "arguments"),
    [
        ("logger", "pytorch_lightning.loggers.CSVLogger", {"save_dir": "mine"}),
        ("callbacks", "EarlyStopping", {"monitor": "x"}),
        ("callbacks", "Timer", {}),
        ("plugins", "LightningEnvironment", {}),
        ("profiler", "SimpleProfiler", {"filename": "x"}),
    ],
)
def test_a_class_for_the_trainer(
    option: str, name: str, arguments: dict[str, str], parser: ArgumentParser, tmp_path: Path
) -> None:
    """One class or a list of them means the same as flags, as text and in a file."""
    value = {"class_path": name, "init_args": arguments}
    one, several = tmp_path / "one.yaml", tmp_path / "several.yaml"
    one.write_text(yaml.safe_dump({"trainer": {option: value}}))
    several.write_text(yaml.safe_dump({"trainer": {option: [value]}}))
    flags = [part for key, text in arguments.items() for part in (f"--trainer.{option}.{key}", text)]
    for argv in (["--config", str(one)], [f"--trainer.{option}", name, *flags], ["--config", str(several)]):
        if option == "profiler" and argv[-1] == str(several):
            continue
        config = parser.parse_args(begin_anew(read_arguments(argv).argv))
        (part,) = [made] if isinstance(made := yaml.safe_load(parser.dump(config))["trainer"][option], dict) else made
        assert part["class_path"].rpartition(".")[2] == name.rpartition(".")[2]
        assert arguments.items() <= part.get("init_args", {}).items()


@pytest.mark.parametrize(("value", "names"), [("true", ["TensorBoard", "MetricsCSV"]), ("false", [])])
def test_loggers_switched_on_and_off(
    value: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = prepare(["--config", str(ROOT / "conf/method/sac.yaml"), "--trainer.logger", value], Stopping())
    loggers: list[Any] = plan.trainer.loggers
    assert [type(logger).__name__ for logger in loggers] == names


def test_a_logger_of_the_users_beside_the_record(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another class than the first begins anew here too; metrics.csv, which furl-report reads, stays."""
    monkeypatch.chdir(tmp_path)
    sac = {"model__vlm": "null", "model__reward__source": "task", "model__relay__enabled": "false"}
    logger = ["TensorBoardLogger", "--trainer.logger.save_dir", "no", "--trainer.logger", "CSVLogger"]
    flags = ["--trainer.logger", *logger, "--trainer.logger.save_dir", "mine"]
    run("x", *flags, **sac, data__env_steps=60, data__env__episode_steps=50)
    (theirs,) = Path("mine").rglob("metrics.csv")
    assert "train/return" in theirs.read_text()
    assert "train/return" in Path("x/metrics.csv").read_text() and not Path("no").exists()


BAD_CLASSES = {
    "logger CSVLoger": "unknown logger 'CSVLoger'; the nearest is 'CSVLogger'",
    "logger torch.nn.Linear": "'torch.nn.Linear' is no logger: give a class that implements",
    "logger CSVLogger": "trainer.logger CSVLogger needs --trainer.logger.save_dir",
    'logger [{"class_path":"CSVLogger"}]': "trainer.logger CSVLogger needs --trainer.logger.save_dir",
    "logger CSVLogger --trainer.logger.nope 1": "unknown option 'trainer.logger.nope'; CSVLogger takes save_dir, name",
    "logger.save_dir x": "trainer.logger names no class yet: give --trainer.logger CLASS before",
    "callbacks Timer --trainer.callbacks.verbose 3": "trainer.callbacks.verbose must be true or false, not '3'",
    "profiler no_such.X": "not 'no_such.X'; there is no module no_such",
    "accelerator gpuu": "not 'gpuu'; the nearest is 'gpu'",
    "logger WandbLogger": "trainer: Requirement 'wandb",
    "accelerator tpu": "trainer: ",
}


@pytest.mark.parametrize("flags", BAD_CLASSES)
def test_a_class_that_cannot_be_made(flags: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """One line."""
    if "Wandb" in flags and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    monkeypatch.chdir(tmp_path)
    assert fit(["--model.vlm", "null", "--data.tasks", "[reach]", *f"--trainer.{flags}".split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert BAD_CLASSES[flags] in line
