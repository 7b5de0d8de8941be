"""The files under conf/, and files that build on others."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from furl_lightning.commands.config_files import expand, load
from furl_lightning.commands.options import check
from furl_lightning.sweep.plan import Sweep
from furl_lightning.utils.errors import BadInput

CONF = Path(__file__).resolve().parents[1] / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
PAPER = ["goal/fixed.yaml", "learner/published.yaml", "paper/mt10_fixed.yaml"]
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


def test_paper_sweep_can_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = yaml.safe_load((CONF / "sweep/paper.yaml").read_text())
    paths = [*settings["common"], *(path for paths in settings["methods"].values() for path in paths)]
    assert [path for path in paths if not (CONF.parent / path).is_file()] == []
    monkeypatch.chdir(CONF.parent)
    trials = Sweep(**settings).trials()
    assert [len(trials), {trial.env_steps for trial in trials}] == [60, {1_000_000}]


@pytest.mark.parametrize(
    ("file", "order"),
    [
        ("quick.yaml", ["learner/fast.yaml", "quick.yaml"]),
        ("mt10_plus.yaml", ["mt10.yaml", "learner/fast.yaml", "mt10_plus.yaml"]),
        ("paper/mt10_fixed.yaml", PAPER),
        ("paper/mt10_random.yaml", [*PAPER, "goal/random.yaml", "paper/mt10_random.yaml"]),
    ],
)
def test_bases_come_first(file: str, order: list[str]) -> None:
    assert [Path(path).resolve() for path in expand([CONF / file])] == [CONF / path for path in order]


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
