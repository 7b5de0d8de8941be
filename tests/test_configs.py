"""The files under conf/, and files that build on others."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from furl_lightning.commands.config_files import expand, find, load, with_paths
from furl_lightning.commands.options import check, read_arguments
from furl_lightning.sweep.plan import Sweep
from furl_lightning.utils.errors import BadInput

CONF = Path(__file__).resolve().parents[1] / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
PAPER = ["goal/fixed.yaml", "learner/published.yaml", "paper/mt10_fixed.yaml"]
PLUS = [
    *("learner/fast.yaml", "beyond_paper/action_repeat_2.yaml", "beyond_paper/n_step_3.yaml"),
    *("beyond_paper/success_share_0.25.yaml", "ablation/l2_margin_0.1.yaml", "learner/plus.yaml"),
]
MOST_IN_COMMON = 3
"""Settings that two files may both write out; more of them belong in a file that both have as a base."""


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by their dotted names."""
    values: dict[str, str] = {}
    for key, value in settings.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: repr(value)}
    return values


@pytest.mark.parametrize("file", FILES, ids=map(str, FILES))
def test_a_file_says_what_it_is_for(file: Path) -> None:
    assert (CONF / file).read_text().startswith("# ")


def test_no_block_stands_twice() -> None:
    settings = {file: flat(load(CONF / file)).items() for file in FILES}
    common = {
        (str(first), str(second)): sorted(settings[first] & settings[second])
        for first, second in itertools.combinations(FILES, 2)
    }
    assert {files: both for files, both in common.items() if len(both) > MOST_IN_COMMON} == {}


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] != "sweep"], ids=str)
def test_a_file_is_taken_by_furl_fit(file: Path) -> None:
    assert check(["--config", str(CONF / "mt10.yaml"), "--config", str(CONF / file)]).env_steps_total > 0


def test_paper_sweep_can_be_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From anywhere."""
    settings = yaml.safe_load((CONF / "sweep/paper.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    trials = Sweep(**settings).trials()
    assert [len(trials), {trial.env_steps for trial in trials}] == [60, {1_000_000}]


@pytest.mark.parametrize(
    ("file", "order"),
    [
        ("quick.yaml", [*PLUS, "quick.yaml"]),
        ("mt10_plus.yaml", ["mt10.yaml", *PLUS, "mt10_plus.yaml"]),
        ("paper/mt10_fixed.yaml", PAPER),
        ("paper/mt10_random.yaml", [*PAPER, "goal/random.yaml", "paper/mt10_random.yaml"]),
    ],
)
def test_bases_come_first(file: str, order: list[str]) -> None:
    assert [Path(path).resolve() for path in expand([CONF / file])] == [CONF / path for path in order]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every file, from anywhere; a file of the user's goes before; a base may be a name."""
    monkeypatch.chdir(tmp_path)
    assert [find(str(file).removesuffix(".yaml")) for file in FILES] == [CONF / file for file in FILES]
    read = read_arguments(["--config", "mt10", "--config=ablation/margin_0.05"])
    assert read.name == "mt10-margin_0.05"
    assert (
        read.argv == read_arguments([f"--config={CONF}/mt10.yaml", f"--config={CONF}/ablation/margin_0.05.yaml"]).argv
    )
    Path("mine.yaml").write_text("base: [goal/random, mt10]\n")
    assert expand(["mine.yaml"]) == [str(path) for path in (CONF / "goal/random.yaml", CONF / "mt10.yaml", "mine.yaml")]
    Path("mt10").write_text("data: {env_steps: 5}\n")
    assert expand(["mt10", "mine.yaml"]) == ["mt10", str(CONF / "goal/random.yaml"), "mt10", "mine.yaml"]
    assert with_paths(["--config", "sweep/paper", "--config=mt10"]) == [
        *("--config", str(CONF / "sweep/paper.yaml")),
        "--config=mt10",
    ]
    for name, near in {
        "mt11": "mt10",
        "sac": "method/sac",
        "conf/quick.yaml": "quick",
        "goal/randm": "goal/random",
    }.items():
        with pytest.raises(BadInput, match=f"no file {name} .*, nor a configuration named so; near is '{near}'"):
            read_arguments(["--config", name])


BUILD = "import setuptools.build_meta as build; build.build_wheel('dist'), build.build_sdist('dist')"
USE = (
    "from furl_lightning.commands.config_files import PACKAGE, expand, named\n"
    "print(PACKAGE); print(*expand(['mt10_plus'])); print(*named())"
)


def test_the_files_travel_with_the_package(tmp_path: Path) -> None:
    """In the wheel and the source archive; an installed package finds them where there is no checkout."""
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    for name in ("conf", "furl_lightning"):
        shutil.copytree(CONF.parent / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    for name in ("setup.py", "MANIFEST.in", "pyproject.toml", "README.md"):
        shutil.copy(CONF.parent / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        assert {name.partition("/conf/")[2] for name in file.getnames()} >= set(map(str, FILES))
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as zipped:
        zipped.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", USE], cwd=empty, env=environment, capture_output=True, text=True)
    package, files, names = done.stdout.splitlines()
    assert package == str(site / "furl_lightning")
    assert [os.path.normpath(file) for file in files.split()] == [
        f"{package}/conf/{name}" for name in ("mt10.yaml", *PLUS, "mt10_plus.yaml")
    ]
    assert sorted(names.split()) == sorted(str(file).removesuffix(".yaml") for file in FILES)


def test_base_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("data: {env_steps: 5}\n")
    (tmp_path / "above.yaml").write_text("base: [below.yaml]\nmodel: {sac: {lr: 1.0e-4}}\n")
    assert load(tmp_path / "above.yaml") == {"model": {"sac": {"lr": 1e-4}}}
    paths = [tmp_path / "above.yaml", tmp_path / "below.yaml"]
    assert expand(paths) == [str(tmp_path / name) for name in ("below.yaml", "above.yaml", "below.yaml")]


BAD = {
    "base: below.yaml": "{top}: base must be a list of files, such as [../goal/random.yaml], not 'below.yaml'",
    "base: [1]": "{top}: base must be a list of files, such as [../goal/random.yaml], not [1]",
    "base:": "{top}: base must be a list of files, such as [../goal/random.yaml], not None",
    "base: [none.yaml]": "there is no file {folder}/none.yaml (a base of {top})",
    "base: [.]": "{folder} cannot be read: Is a directory",
    "base: [middle.yaml]": "base: a file cannot be its own base: {top} -> {folder}/middle.yaml -> {folder}/top.yaml",
    "base: [top.yaml]": "base: a file cannot be its own base: {top} -> {folder}/top.yaml",
    "[1, 2]": "{top} is no configuration: it must be a mapping such as 'data: {{tasks: [reach]}}'",
    "# nothing": "{top} is no configuration: it must be a mapping such as 'data: {{tasks: [reach]}}'",
    "a: [": "{top} is no YAML: ",
    "a: !!python/name:os.system": "{top} is no YAML: ",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_files_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    top = tmp_path / "top.yaml"
    top.write_text(text)
    (tmp_path / "middle.yaml").write_text("base: [top.yaml]")
    with pytest.raises(BadInput) as refused:
        expand([top])
    assert str(refused.value).startswith(BAD[text].format(top=top, folder=tmp_path))
    assert "\n" not in str(refused.value)
