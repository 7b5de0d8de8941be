"""furl-report: its figures against independent ones, what it says is missing, and what it refuses."""

from __future__ import annotations

import csv
import fcntl
import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from furl_lightning.analysis.figures import draw_aggregates, draw_curves
from furl_lightning.analysis.intervals import interquartile_mean, stratified_bootstrap, task_mean, wilson
from furl_lightning.analysis.report import group, published_means
from furl_lightning.commands.report import report
from furl_lightning.runs.metrics_csv import MetricsCSV
from furl_lightning.runs.read import NoRun, labels, method, read
from furl_lightning.tasks import TASK_SETS
from furl_lightning.utils.text_table import text_table

from .conftest import Run

MODEL: dict[str, Any] = {
    "vlm": {"class_path": "furl_lightning.vlm.Embedded"},
    "reward": {"rho": 0.05},
    "sac": {"lr": 1e-4},
    "log_every": 500,
}
DATA: dict[str, Any] = {
    "env": {"goal": "fixed", "reward": "sparse"},
    "goal_image": True,
    "env_steps": 2000,
    "evaluation": {"every": 1000},
}
STEPS = (1000, 2000)
Value = Callable[[str, int, int], float]


def nested(*settings: dict[str, Any]) -> dict[str, Any]:
    """Settings laid over each other, deep."""
    result: dict[str, Any] = {}
    for part in settings:
        for name, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = nested(result[name], value) if both else value
    return result


def write_run(folder: Path, tasks: list[str], seeds: list[int], value: Value, steps: tuple[int, ...] = STEPS,
              model: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A run's folder as furl-fit leaves it, with given evaluations."""
    folder.mkdir(parents=True)
    config = {"model": nested(MODEL, model or {}), "data": nested(DATA, {"tasks": tasks, "seeds": seeds}, data or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    log = MetricsCSV(folder / "metrics.csv")
    for step in steps:
        log.log_metrics({"perf/env_steps_per_s": 10.0}, step)
        for task in tasks:
            rates = [value(task, seed, step) for seed in seeds]
            log.log_metrics({f"eval/success/{task}": float(np.mean(rates)), f"eval/success_any/{task}": 1.0}, step)
            if len(seeds) > 1:
                log.log_metrics({f"eval/success/{task}/{s}": v for s, v in zip(seeds, rates, strict=True)}, step)
    log.finalize("success")
    return folder


def drawn(number: int) -> Value:
    """Success rates of one's own for each agent and step."""
    return lambda task, seed, step: float(np.random.default_rng([number, len(task), seed, step]).integers(0, 11) / 10)


def from_metrics(folders: list[Path]) -> dict[str, list[float]]:
    """Success at the last evaluation by task, straight from the files."""
    last: dict[str, float] = {}
    for folder in folders:
        rates: dict[str, float] = {}
        several: set[str] = set()
        for line in (folder / "metrics.csv").read_text().splitlines()[1:]:
            _, tag, value = line.split(",")
            parts = tag.split("/")
            if parts[:2] == ["eval", "success"] and len(parts) > 2:
                rates["/".join([folder.name, *parts[2:]])] = float(value)
                if len(parts) == 4:
                    several.add(f"{folder.name}/{parts[2]}")
        last.update({key: value for key, value in rates.items() if key not in several})
    by_task: dict[str, list[float]] = defaultdict(list)
    for key, rate in last.items():
        by_task[key.split("/")[1]].append(rate)
    return by_task


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_equals_what_the_metrics_files_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two methods, three seeds, two tasks; one method in a single run, the other in a run for each seed."""
    tasks = ["reach", "drawer-close"]
    furl = [write_run(tmp_path / "furl", tasks, [0, 1, 2], drawn(1))]
    sac = [write_run(tmp_path / f"sac-{seed}", tasks, [seed], drawn(2), model={"vlm": None}) for seed in range(3)]
    assert report([*map(str, [*furl, *sac]), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    table = {(row["method"], row["task"]): row for row in rows(tmp_path / "out/table.csv")}
    assert len(table) == 4
    for name, folders in (("FuRL", furl), ("SAC", sac)):
        scores = from_metrics(folders)
        for task in tasks:
            row, rates = table[name, task], scores[task]
            assert int(row["seeds"]) == len(rates) == 3
            assert float(row["success"]) == pytest.approx(sum(rates) / 3)
            assert float(row["deviation"]) == pytest.approx(np.std(rates, ddof=1))
        total = next(row for row in rows(tmp_path / "out/aggregate.csv") if row["method"] == name)
        everything = [value for task in tasks for value in scores[task]]
        assert float(total["mean"]) == pytest.approx(np.mean(everything))
        assert float(total["iqm"]) == pytest.approx(stats.trim_mean(everything, 0.25))
        assert float(total["iqm_low"]) <= float(total["iqm"]) <= float(total["iqm_high"])
        assert float(total["hours"]) == pytest.approx(2000 * len(scores) * 3 / 10.0 / 3600)
        assert f"{100 * np.mean(scores['reach']):.1f} ± {100 * np.std(scores['reach'], ddof=1):.1f}" in printed
    assert "FuRL (published)" in printed and "mean over MT10" in printed and "76.0" in printed


def test_curves_and_steps_to_a_level(tmp_path: Path) -> None:
    """The first evaluation whose mean over seeds is high enough, and curves only where all seeds are."""
    run = write_run(
        tmp_path / "a", ["reach"], [0, 1], lambda _, seed, step: min(1.0, step / 4000 + seed / 2), (1000, 2000, 3000)
    )
    late = write_run(tmp_path / "b", ["reach"], [2], lambda *_: 1.0, (2000, 3000))
    assert report([str(run), str(late), "--out", str(tmp_path / "out")]) == 0
    curve = [row for row in rows(tmp_path / "out/curves.csv") if row["task"] == "reach"]
    assert [int(row["env_steps"]) for row in curve] == [2000, 3000]
    assert float(curve[0]["success"]) == pytest.approx((0.5 + 1.0 + 1.0) / 3)
    assert float(curve[1]["success"]) == pytest.approx((0.75 + 1.0 + 1.0) / 3)
    (total,) = rows(tmp_path / "out/aggregate.csv")
    assert total["steps_to_0.5"] == "2000" and total["steps_to_0.8"] == "2000"


def test_training_episodes_since_the_evaluation_before(tmp_path: Path) -> None:
    """Each seed's share of them, averaged over seeds; none where no episode ended in between."""
    folder = write_run(tmp_path / "a", ["reach"], [0, 1], lambda *_: 0.0, (1000, 2000, 2400, 3000))
    with (folder / "metrics.csv").open("a") as file:
        for k, values in enumerate([(0, 0), (1, 0), (1, 0), (1, 0), (0, 1), (0, 1)], 1):
            file.writelines(f"{500 * k},train/success/reach/{seed},{value}.0\n" for seed, value in enumerate(values))
    assert report([str(folder), "--out", str(tmp_path / "out")]) == 0
    curve = {row["env_steps"]: row["training"] for row in rows(tmp_path / "out/curves.csv") if row["task"] == "reach"}
    assert curve == {"1000": "0.25", "2000": "0.5", "2400": "", "3000": "0.5"}
    with Image.open(tmp_path / "out/training-fixed.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


FURL = {
    "reach": {1000: (0.4, 0.6), 2000: (1.0, 0.8)},
    "push": {1000: (0.0, 0.0), 2000: (0.0, 0.1)},
    "door-open": {1000: (0.0, 0.0), 2000: (0.6, 0.6)},
}
"""Success by task, steps and seed."""


@pytest.fixture
def two_methods(tmp_path: Path) -> list[Path]:
    """FuRL of two seeds in one run; SAC, always at 0.3, in a run for each seed."""
    return [
        write_run(tmp_path / "furl", list(FURL), [0, 1], lambda task, seed, step: FURL[task][step][seed]),
        *(write_run(tmp_path / f"sac-{s}", list(FURL), [s], lambda *_: 0.3, model={"vlm": None}) for s in (0, 1)),
    ]


def test_printed_tables(two_methods: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every number on the screen, worked out by hand; the least and the greatest resample have more than 2.5 %."""
    assert report([*map(str, two_methods), "--out", str(tmp_path / "out")]) == 0
    printed = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    cells = iter([line for line in printed if line[0].strip("-")])
    for expected in (
        ["success in % at the last evaluation, fixed goals"],
        ["task", "FuRL", "SAC", "FuRL (published)", "SAC (published)", "VLM (published)", "LAGEA (published)"],
        ["reach", "90.0 ± 14.1", "30.0 ± 0.0"],
        ["push", "5.0 ± 7.1", "30.0 ± 0.0"],
        ["door-open", "60.0 ± 0.0", "30.0 ± 0.0"],
        ["mean", "51.7", "30.0"],
        ["mean over MT10", "76.0", "37.0", "0.0", "80.0"],
        ["over all tasks and seeds"],
        ["method", "seeds", "mean", "interquartile mean"],
        ["FuRL", "2", "51.7 (46.7 - 56.7)", "52.5 (50.0 - 57.5)"],
        ["SAC", "2", "30.0 (30.0 - 30.0)", "30.0 (30.0 - 30.0)"],
        ["steps to a success rate"],
        ["task", "FuRL: 50%", "FuRL: 80%", "SAC: 50%", "SAC: 80%"],
        ["reach", "1,000", "2,000", "-", "-"],
        ["push", "-", "-", "-", "-"],
        ["door-open", "2,000", "-", "-", "-"],
        ["mean", "2,000", "-", "-", "-"],
        ["wall clock"],
        ["method", "runs", "environment steps", "hours", "steps per second"],
        ["FuRL", "1", "12,000", "0.33", "10.0"],
        ["SAC", "2", "12,000", "0.33", "10.0"],
        [f"written: {tmp_path / 'out/index.html'}, and tables (.csv) and figures (.png) beside it"],
    ):
        assert next(cells) == expected
    page = (tmp_path / "out/index.html").read_text()
    for row in (["SAC", "31.3", "47.7", "63.0", "70.0"], ["TD-MPC2", "75.7", "90.7", "94.0", "96.3"]):
        assert "".join(f"<td>{cell}</td>" for cell in row) in page
    total = rows(tmp_path / "out/aggregate.csv")[0]
    numbers = [float(total[name]) for name in ("mean", "mean_low", "mean_high", "iqm", "iqm_low", "iqm_high")]
    assert numbers == pytest.approx([1.55 / 3, 1.4 / 3, 1.7 / 3, 0.525, 0.5, 0.575])
    assert [total["steps_to_0.5"], total["steps_to_0.8"]] == ["2000", ""]
    curves = {
        (row["task"], row["env_steps"]): row for row in rows(tmp_path / "out/curves.csv") if row["method"] == "FuRL"
    }
    for task, band in (("reach", [0.8, 0.9, 1.0]), ("mean", [1.4 / 3, 1.55 / 3, 1.7 / 3])):
        assert [float(curves[task, "2000"][name]) for name in ("low", "success", "high")] == pytest.approx(band)


def test_published_means_stand_beside_the_mean_over_mt10(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", ["mt10"], [0], lambda *_: 0.5, data={"env": {"goal": "random"}})
    text = (folder / "metrics.csv").read_text().replace("mt10", "{}")  # the configuration names the set, metrics tasks
    head, *lines = text.splitlines()
    each = [line.format(task) for line in lines for task in TASK_SETS["mt10"]]
    (folder / "metrics.csv").write_text("\n".join([head, *each]) + "\n")
    assert report([str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert ["task", "FuRL", "FuRL (published)", "LAGEA (published)"] in printed
    assert ["mean", "50.0", "64.6", "70.4"] in printed and "mean over MT10" not in {line[0] for line in printed}


def test_curves_show_the_numbers(two_methods: list[Path]) -> None:
    """A panel for each task and their mean; a method has its colour, a line for its mean, thin ones for its seeds."""
    with (two_methods[0] / "metrics.csv").open("a") as file:
        file.writelines(f"{500 * k},train/success/reach/0,{k % 2}.0\n" for k in (1, 2, 3))
        file.writelines(f"{500 * k},train/success/reach/1,0.0\n" for k in (1, 2, 3))
    runs = [read(folder) for folder in two_methods]
    methods = group(runs, labels(runs))
    figure = draw_curves(methods, list(FURL))
    panels: dict[str, Any] = {axis.get_title(): axis for axis in figure.axes}
    assert list(panels) == [*FURL, "mean over tasks"]
    thick = {line.get_label(): line for line in panels["reach"].get_lines() if line.get_marker() == "o"}
    assert list(thick["FuRL"].get_xdata()) == [1000, 2000] and thick["FuRL"].get_ydata() == pytest.approx([0.5, 0.9])
    assert list(thick["SAC"].get_ydata()) == [0.3, 0.3]
    assert (thick["FuRL"].get_color(), thick["SAC"].get_color()) == ("C0", "C1")
    thin = [tuple(line.get_ydata()) for line in panels["reach"].get_lines() if line.get_color() == "C0"]
    assert {(0.4, 1.0), (0.6, 0.8)} < set(thin) and len(thin) == 3
    band = panels["reach"].collections[0].get_paths()[0].vertices
    assert {(x, round(y, 9)) for x, y in band.tolist()} == {(1000, 0.4), (1000, 0.6), (2000, 0.8), (2000, 1.0)}
    mean = panels["mean over tasks"].get_lines()
    assert len(mean) == 2 and mean[0].get_ydata() == pytest.approx([0.5 / 3, 1.55 / 3])
    (training,) = draw_curves(methods[:1], ["reach"], training=True).axes
    (shares,) = (line.get_ydata() for line in training.get_lines() if line.get_marker() == "o")
    assert shares == pytest.approx([0.25, 0.5])


def test_published_means_are_marked_where_the_tasks_are_mt10(tmp_path: Path) -> None:
    """A dotted line each in the panel of the mean, and nowhere else."""
    tasks = list(TASK_SETS["mt10"])
    runs = [read(write_run(tmp_path / "furl", tasks, [0], drawn(1)))]
    methods = group(runs, labels(runs))
    assert published_means(methods, ["reach", "push"]) == {}
    published = published_means(methods, tasks)
    assert published["FuRL, published, 1,000k steps"] == 0.76
    mean: Any
    (mean,) = draw_curves(methods, tasks, published=published, mean_alone=True).axes
    assert {line.get_ydata()[0] for line in mean.get_lines() if line.get_linestyle() == ":"} == set(published.values())
    assert {text.get_text() for text in mean.texts} == set(published)
    panels = draw_curves(methods, tasks, published=published).axes
    assert [len(axis.texts) for axis in panels[:11]] == [0] * 10 + [len(published)]


def test_aggregates_show_the_numbers(two_methods: list[Path]) -> None:
    """The first method on top; a line at the mean within a bar over its interval."""
    runs = [read(folder) for folder in two_methods]
    methods = group(runs, labels(runs))
    axes: list[Any] = draw_aggregates(methods, {method: method.aggregate(list(FURL)) for method in methods}).axes
    ticks = zip(axes[0].get_yticks(), axes[0].get_yticklabels(), strict=True)
    assert {y: label.get_text() for y, label in ticks} == {0: "FuRL", 1: "SAC"}
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]
    for axis, value, low, high in zip(axes, (1.55 / 3, 0.525), (1.4 / 3, 0.5), (1.7 / 3, 0.575), strict=True):
        furl, sac = axis.get_lines()
        assert furl.get_xdata() == pytest.approx([value, value]) and np.mean(furl.get_ydata()) == 0
        assert sac.get_xdata() == pytest.approx([0.3, 0.3]) and np.mean(sac.get_ydata()) == 1
        assert axis.patches[0].get_bbox().extents == pytest.approx([low, -0.3, high, 0.3])


def test_text_tables_are_whole() -> None:
    """Neither wrapped nor cut nor read as markup, however long; rules where they belong."""
    long = "x" * 300
    text = text_table(["task", "[bold]a"], [["reach", long], ["[red]", ":smile:"], ["mean", "1"]], "title", ruled=1)
    title, header, rule, first, second, other, last = text.splitlines()
    assert (
        (title, first, other) == ("title", f"reach   {long}", rule) and set(rule) == {"-"} and len(rule) == len(first)
    )
    assert (
        header.split() == ["task", "[bold]a"]
        and second.split() == ["[red]", ":smile:"]
        and last.split() == ["mean", "1"]
    )
    assert all(line.startswith(("task", "reach", "[red]", "mean", "-")) for line in text.splitlines()[1:])
    assert {len(line) for line in text.splitlines()[1:]} == {len(rule)}


def test_page_stands_alone_and_pictures_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", ["reach", "push"], [0, 1], drawn(3))
    other = write_run(tmp_path / "b", ["reach", "push"], [0, 1], drawn(4), data={"env": {"goal": "random"}})
    assert report([str(run), str(other), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and page.count("src=") == page.count('src="data:')
    assert "href" not in page
    for goal in ("fixed", "random"):
        assert f"Success, {goal} goals" in page
        for name in (f"curves-{goal}.png", f"aggregate-{goal}.png"):
            with Image.open(tmp_path / "out" / name) as picture:
                assert np.asarray(picture.convert("L")).std() > 5
    assert report([str(run), "--out", str(tmp_path / "out")]) == 0  # a report may be made again


def test_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Running, stopped, resumed, and without an evaluation yet; the rest is reported."""
    write_run(tmp_path / "r/running", ["reach"], [0, 1], drawn(1), (1000,))
    write_run(tmp_path / "r/stopped", ["reach"], [0], drawn(2), (1000,), model={"vlm": None})
    write_run(tmp_path / "r/begun", ["reach"], [1], drawn(2), (), model={"vlm": None})
    (tmp_path / "r/begun/metrics.csv").write_text("env_steps,metric,value\n500,train/success,0.0\n50")
    resumed = write_run(tmp_path / "r/resumed", ["reach"], [2], drawn(5), (1000, 2000, 4000))
    config = yaml.safe_load((resumed / "config.yaml").read_text())
    config["data"]["env_steps"] = 4000
    (resumed / "config-2.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "r/empty").mkdir()
    with (tmp_path / "r/running/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert report([*map(str, sorted((tmp_path / "r").iterdir())), "--out", str(tmp_path / "out")]) == 0
    notes = capsys.readouterr().err
    assert "running (FuRL, fixed goals) is running at 1,000 of 2,000 steps" in notes
    assert "stopped (SAC, fixed goals) is stopped at 1,000 of 2,000 steps" in notes
    assert "begun (SAC, fixed goals) has no evaluation yet" in notes
    assert "empty is empty" in notes and "resumed" not in notes
    assert "different numbers of seeds: SAC 2, FuRL 3" in notes
    assert "1,000 to 4,000" in notes or "0 to 4,000" in notes
    table = {row["method"]: row for row in rows(tmp_path / "out/table.csv")}
    assert table["SAC"]["seeds"] == "1" and table["FuRL"]["seeds"] == "3"


def test_one_line_for_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and nothing is written."""
    empty = tmp_path / "empty"
    empty.mkdir()
    none = write_run(tmp_path / "none", ["reach"], [0], drawn(1), ())
    MetricsCSV(none / "metrics.csv").log_metrics({"train/success": 0.0}, 500)
    one = write_run(tmp_path / "one", ["reach", "push"], [0], drawn(1))
    two = write_run(tmp_path / "two", ["reach"], [0], drawn(1), model={"vlm": None})
    copy = write_run(tmp_path / "copy", ["reach", "push"], [0], drawn(1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    out = ["--out", str(tmp_path / "out")]
    for argv, message in (
        ([str(empty), *out], f"{empty} is empty"),
        ([str(tmp_path / "nowhere"), *out], "there is no folder"),
        ([str(tmp_path / "full"), *out], "no run of furl-fit: it has no config.yaml"),
        ([str(tmp_path), *out], f"it has no config.yaml; give the runs in it: {tmp_path}/*"),
        ([str(none), *out], f"no evaluation in {none} yet"),
        ([str(one), str(two), *out], "mixed populations (fixed goals): FuRL has reach, push; SAC has reach; compare "
         "what they share with --tasks reach"),
        ([str(one), str(copy), *out], "both have reach/0 of FuRL (fixed goals)"),
        ([str(one), "--tasks", "window-open", *out], "FuRL has no window-open"),
        ([str(one), "--tasks", "reech", *out], "unknown task 'reech'; the nearest is 'reach'"),
        ([str(one), "--label", "X", *out], "--label must be NAME=PATTERN such as 'SAC=sac-*', not 'X'"),
        ([str(one), "--label", "X=y*", *out], "--label X=y* matches no run; their names are one"),
        ([str(one), "--oot", "x"], "unknown option 'oot'; the nearest is 'out'"),
        ([str(one), "--out", str(tmp_path / "full")], "holds something else than a report"),
        ([], "runs"),
    ):  # fmt: skip
        assert report(argv) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("furl-report: ") and message in lines[0], lines
    assert not (tmp_path / "out").exists() and [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    assert report([str(one), str(two), "--tasks", "reach", *out]) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("model: [", "is no configuration of furl-fit: "),
        ("- 1", "is no configuration of furl-fit: it has no settings"),
        ("data: {tasks: [reach], seeds: [0], env_steps: 10, goal: fixed}", "it has no model.vlm, data.env.goal"),
        (
            "{model: {vlm: null}, data: {tasks: [reach], seeds: 3, env_steps: 10, env: {goal: fixed}}}",
            "data.seeds must be a list",
        ),
        (
            "{model: {vlm: null}, data: {tasks: [reech], seeds: [3], env_steps: 10, env: {goal: fixed}}}",
            "unknown task 'reech'; the nearest is 'reach'",
        ),
    ],
)
def test_configurations_that_cannot_be_read(tmp_path: Path, config: str, message: str) -> None:
    """Of other versions, or damaged: one line that names the file."""
    folder = write_run(tmp_path / "a", ["reach"], [0], drawn(1))
    (folder / "config.yaml").write_text(config)
    with pytest.raises(NoRun, match=re.escape(message)) as error:
        read(folder)
    assert str(folder / "config.yaml") in str(error.value) and "\n" not in str(error.value)


def test_real_runs(run: Run, tmp_path: Path) -> None:
    """What furl-fit writes is what furl-report reads: two methods apart by a setting, three seeds."""
    settings = {"data__seeds": "[0, 1, 2]", "data__env_steps": 20, "data__collection__start_steps": 10}
    for name, rho in (("a", 0.05), ("b", 0.2)):
        run(name, **settings, model__reward__rho=rho)
    argv = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    assert report(argv) == 0
    table = {row["method"]: row for row in rows(tmp_path / "out/table.csv")}
    assert set(table) == {"FuRL, reward.rho=0.05", "FuRL, reward.rho=0.2"}
    for name, rho in (("a", 0.05), ("b", 0.2)):
        rates = from_metrics([tmp_path / name])["drawer-close"]
        assert len(rates) == 3 and float(table[f"FuRL, reward.rho={rho}"]["success"]) == pytest.approx(np.mean(rates))
        assert read(tmp_path / name).state == "finished"


def test_methods_are_named_by_what_is_on(tmp_path: Path) -> None:
    """As the paper names them; --label has the last word."""
    for model, data, name in (
        ({}, {}, "FuRL"),
        ({"reward": {"source": "aligned"}, "relay": {"enabled": True}}, {"goal_image": None}, "FuRL"),
        ({}, {"goal_image": False}, "FuRL without goal image"),
        ({"reward": {"source": "goal_baseline"}, "relay": {"enabled": False}}, {}, "VLM, goal baseline"),
        ({"relay": {"enabled": False}}, {}, "Align"),
        ({"reward": {"source": "cosine"}, "relay": {"enabled": True}}, {}, "Relay"),
        ({"reward": {"source": "cosine"}, "relay": {"enabled": False}}, {}, "VLM"),
        ({}, {"env": {"obs": "pixels"}}, "FuRL, pixels"),
        (
            {"vlm": None, "reward": {"source": "task"}, "relay": {"enabled": False}},
            {"env": {"reward": "dense"}},
            "SAC, dense reward",
        ),
    ):
        assert method({"model": nested(MODEL, model), "data": nested(DATA, data)}) == name
    assert method({"model": {"vlm": MODEL["vlm"]}, "data": {}}) == "FuRL"
    runs = [
        read(write_run(tmp_path / "a", ["reach"], [0], drawn(1))),
        # the length does not tell apart
        read(write_run(tmp_path / "b", ["reach"], [1], drawn(1), data={"env_steps": 9000})),
        read(write_run(tmp_path / "c", ["reach"], [0], drawn(1), model={"sac": {"lr": 3e-4}})),
        read(write_run(tmp_path / "d", ["reach"], [0], drawn(1), model={"vlm": None, "sac": {"lr": 3e-4}})),
    ]
    assert labels(runs) == ["FuRL, sac.lr=0.0001", "FuRL, sac.lr=0.0001", "FuRL, sac.lr=0.0003", "SAC"]
    folders = [str(tmp_path / name) for name in "abc"]
    assert report([*folders, "--label", "fast=c", "--out", str(tmp_path / "out")]) == 0
    assert [row["method"] for row in rows(tmp_path / "out/table.csv")] == ["FuRL", "fast"]


@pytest.mark.parametrize(("successes", "episodes"), [(0, 1), (1, 1), (3, 10), (50, 50), (17, 50)])
def test_wilson_solves_its_equation(successes: int, episodes: int) -> None:
    """The interval's ends are the rates p from which the observed one is 1.96 standard deviations away."""
    rate, z2 = successes / episodes, stats.norm.ppf(0.975) ** 2
    ends = np.roots([1 + z2 / episodes, -2 * rate - z2 / episodes, rate * rate])  # (rate - p)^2 = z^2 p (1 - p) / n
    assert wilson(successes, episodes) == pytest.approx(sorted(ends.real), abs=1e-7)


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    """A quarter of the values, rounded down, goes at each end, whatever the tasks; also of many resamples at once."""
    random = np.random.default_rng(0)
    for shapes in ((3,), (3, 3), (5, 4, 5), (1, 1)):
        strata = [random.random((7, n)) for n in shapes]
        for row, mean in zip(np.concatenate(strata, 1).tolist(), interquartile_mean(strata), strict=True):
            cut = len(row) // 4
            assert mean == pytest.approx(sum(sorted(row)[cut : len(row) - cut]) / (len(row) - 2 * cut))


@pytest.mark.parametrize("statistic", [task_mean, interquartile_mean])
def test_bootstrap_equals_all_resamples_enumerated(statistic: Any) -> None:
    """Two tasks of three seeds: 27 x 27 resamples, each as likely as the other."""
    strata = [np.array([0.0, 0.13, 1.0]), np.array([0.2, 0.71, 0.9])]
    resamples = [[values[list(draw)] for draw in itertools.product(range(3), repeat=3)] for values in strata]
    exact = [float(statistic([a, b])) for a, b in itertools.product(*resamples)]
    interval = stratified_bootstrap(strata, statistic)
    assert interval == pytest.approx(tuple(np.percentile(exact, [2.5, 97.5])), abs=0.02)
    assert stratified_bootstrap([np.array([0.5]), np.array([1.0])], statistic) is None
