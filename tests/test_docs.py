"""The docs and the paper's configurations keep up with the code."""

from __future__ import annotations

import importlib
import re
import runpy
import shutil
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import furl_lightning
from furl_lightning.commands.options import check
from furl_lightning.method.learner import TAGS
from furl_lightning.utils.errors import BadInput

from .conftest import SMALL

ROOT = Path(__file__).resolve().parents[1]


def test_every_metric_of_an_update_has_a_line() -> None:
    lines = (ROOT / "docs/metrics.md").read_text().splitlines()
    assert [tag for tag in TAGS if sum(line.startswith(f"| `{tag}` |") for line in lines) != 1] == []


@pytest.mark.parametrize("goal", ["fixed", "random"])
def test_paper_configs_set_what_exists(goal: str) -> None:
    data = check(["--config", str(ROOT / f"conf/paper/mt10_{goal}.yaml")])
    assert len(data.agents) == 50
    published = (goal, "published", 1_000_000)
    assert (data.env_settings.goal, data.memory_settings.lag_rule, data.env_steps_total) == published


def test_the_evidence_is_made_from_the_results(tmp_path: Path) -> None:
    """Every table and figure of README.md and docs/findings.md that has a mark."""
    pages = runpy.run_path(str(ROOT / "scripts/evidence_report.py"))["make"](ROOT / "results", tmp_path)
    assert set(pages) == {"README.md", "docs/findings.md"}
    for name, page in pages.items():
        assert page == (ROOT / name).read_text(), name
    figures = sorted(path.name for path in tmp_path.iterdir())
    assert figures == sorted(path.name for path in (ROOT / "docs/pictures").glob("evidence-*.png"))
    shown = set(re.findall(r"pictures/(evidence-[\w-]+\.png)", "".join(pages.values())))
    assert shown == set(figures)


def test_no_screened_run_is_left_out(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results/screen/all", tmp_path / "screen/all")
    report = runpy.run_path(str(ROOT / "scripts/evidence_report.py"))["screen"]
    assert report(tmp_path, tmp_path).count("\n") == 2
    shutil.copytree(ROOT / "results/screen/all", tmp_path / "screen/unheard_of")
    with pytest.raises(SystemExit, match="no row is for: unheard_of"):
        report(tmp_path, tmp_path)


def test_what_readme_has_of_the_paper_is_there() -> None:
    """The map from the paper to the code names files and what is in them."""
    named = re.findall(r"`([\w/]+)\.py`: ((?:`[\w.]+`(?:, )?)+)", (ROOT / "README.md").read_text())
    assert len(named) >= 10
    for file, names in named:
        module = importlib.import_module(f"furl_lightning.{file.replace('/', '.')}")
        for name in re.findall(r"`([\w.]+)`", names):
            assert callable(reduce(getattr, name.split("."), module)), name


def test_every_result_says_where_it_comes_from() -> None:
    sources = sorted(ROOT.glob("results/*/*/source.yaml"))
    assert sources
    for path in sources:
        data = yaml.safe_load((path.parent / "config.yaml").read_text())["data"]
        made = yaml.safe_load(path.read_text())
        stopped = path.parent.parent.name in ("screen_dense", "fetch")  # by the time that they were given
        stopped |= path.parent == ROOT / "results/screen/none"
        assert made[-1]["steps"] == data["env_steps"] or (stopped and made[-1]["steps"] < data["env_steps"]), path
        for part in made:
            assert part["command"].startswith("furl-fit ") and part["machine"], path
            assert re.fullmatch(r"[0-9a-f]{40}", part["commit"]), path


def python_of(page: str, text: str) -> str:
    """The one block of Python of a page that has a text in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (code,) = [block for block in blocks if text in block]
    return str(code)


def test_readmes_ten_lines_of_python_build_a_learner(capsys: pytest.CaptureFixture[str]) -> None:
    code = python_of("README.md", "Learner(")
    assert len(code.splitlines()) <= 11
    exec(code, {})  # as a reader would
    losses = eval(capsys.readouterr().out, {"tensor": torch.tensor})
    assert {"sac/critic_loss/vlm_agent", "sac/actor_loss/sac_agent", "alignment/loss"} <= set(losses)
    assert all(loss.shape == (2,) and loss.isfinite().all() for loss in losses.values())


def test_readmes_lines_of_python_train_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, without a VLM; then what is refused."""
    monkeypatch.chdir(tmp_path)
    small = {key.split(".", 1)[1]: yaml.safe_load(value) for key, value in SMALL.items() if key.startswith("data.")}
    nested: dict[str, Any] = {
        "data": {},
        "model": {"vlm": None, "reward": {"source": "task"}, "relay": {"enabled": False}},
    }
    for name, value in small.items():
        *above, last = name.split(".")
        group = nested["data"]
        for part in above:
            group = group.setdefault(part, {})
        group[last] = value
    Path("small.yaml").write_text(yaml.safe_dump({**nested, "trainer": {"enable_progress_bar": False}}))
    code = python_of("README.md", ".fit(").replace('"quick"', '"small.yaml"')
    code = code.replace("20_000", "20").replace("30_000", "30")
    assert len(code.splitlines()) <= 10
    names: dict[str, Any] = {}
    exec(code, names)  # as a reader would
    assert names["run"] == Path("runs/first") and furl_lightning.load(names["run"])["drawer-close", 1].env_steps == 30
    logged = (names["run"] / "metrics.csv").read_text().splitlines()
    assert "30,eval/success," in "".join(line for line in logged if line.startswith("30,"))
    with pytest.raises(BadInput, match="the run folder runs/first exists already"):
        furl_lightning.fit("small.yaml", name="first")
    with pytest.raises(BadInput, match=r"unknown option 'data\.seed'; the nearest is 'data\.seeds'"):
        furl_lightning.fit("small.yaml", name="other", data={"seed": 1})
    assert not Path("runs/other").exists()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_room_is_on_the_map(page: str) -> None:
    rooms = [path.parent.name for path in (ROOT / "furl_lightning").glob("*/__init__.py")]
    text = (ROOT / page).read_text()
    assert [room for room in rooms if f"`{room}/`" not in text and f"`{room}`" not in text] == []
