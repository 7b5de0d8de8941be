"""furl-report: its figures against independent ones, what it says is missing, and what it refuses."""

from __future__ import annotations

import csv
import fcntl
import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from furl_lightning.analysis.intervals import interquartile_mean, stratified_bootstrap, task_mean, wilson
from furl_lightning.commands.report import report
from furl_lightning.runs.metrics_csv import MetricsCSV
from furl_lightning.runs.read import labels, method, read

from .conftest import Run

MODEL: dict[str, Any] = {
    "vlm": {"class_path": "furl_lightning.vlm.Embedded"},
    "lr": 1e-4,
    "rho": 0.05,
    "log_every": 500,
}
DATA: dict[str, Any] = {
    "goal": "fixed", "goal_image": True, "reward": "sparse", "env_steps": 2000, "eval_every": 1000,
}  # fmt: skip
STEPS = (1000, 2000)
Value = Callable[[str, int, int], float]


def write_run(folder: Path, tasks: list[str], seeds: list[int], value: Value, steps: tuple[int, ...] = STEPS,
              **settings: Any) -> Path:  # fmt: skip
    """A run's folder as furl-fit leaves it, with given evaluations."""
    folder.mkdir(parents=True)
    model = {**MODEL, **{k: v for k, v in settings.items() if k in MODEL}}
    data = {**DATA, "tasks": tasks, "seeds": seeds, **{k: v for k, v in settings.items() if k not in model}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    log = MetricsCSV(folder / "metrics.csv")
    for step in steps:
        log.log_metrics({"perf/env_steps_per_s": 10.0}, step)
        for task in tasks:
            found = [value(task, seed, step) for seed in seeds]
            log.log_metrics({f"eval/success/{task}": float(np.mean(found)), f"eval/success_any/{task}": 1.0}, step)
            if len(seeds) > 1:
                log.log_metrics({f"eval/success/{task}/{s}": v for s, v in zip(seeds, found, strict=True)}, step)
    log.finalize("success")
    return folder


def drawn(number: int) -> Value:
    """Success rates of one's own for each agent and step."""
    return lambda task, seed, step: float(np.random.default_rng([number, len(task), seed, step]).integers(0, 11) / 10)


def from_metrics(folders: list[Path]) -> dict[str, list[float]]:
    """Success at the last evaluation by task, straight from the files."""
    last: dict[str, float] = {}
    for folder in folders:
        own: dict[str, float] = {}
        several: set[str] = set()
        for line in (folder / "metrics.csv").read_text().splitlines()[1:]:
            _, tag, value = line.split(",")
            parts = tag.split("/")
            if parts[:2] == ["eval", "success"] and len(parts) > 2:
                own["/".join([folder.name, *parts[2:]])] = float(value)
                if len(parts) == 4:
                    several.add(f"{folder.name}/{parts[2]}")
        last.update({key: value for key, value in own.items() if key not in several})
    found: dict[str, list[float]] = defaultdict(list)
    for key, rate in last.items():
        found[key.split("/")[1]].append(rate)
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_equals_what_the_metrics_files_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two methods, three seeds, two tasks; one method in a single run, the other in a run for each seed."""
    tasks = ["reach", "drawer-close"]
    furl = [write_run(tmp_path / "furl", tasks, [0, 1, 2], drawn(1))]
    sac = [write_run(tmp_path / f"sac-{seed}", tasks, [seed], drawn(2), vlm=None) for seed in range(3)]
    assert report([*map(str, [*furl, *sac]), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    table = {(row["method"], row["task"]): row for row in rows(tmp_path / "out/table.csv")}
    assert len(table) == 4
    for name, folders in (("FuRL", furl), ("SAC", sac)):
        scores = from_metrics(folders)
        for task in tasks:
            row, own = table[name, task], scores[task]
            assert int(row["seeds"]) == len(own) == 3
            assert float(row["success"]) == pytest.approx(sum(own) / 3)
            assert float(row["deviation"]) == pytest.approx(np.std(own, ddof=1))
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


def test_page_stands_alone_and_pictures_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", ["reach", "push"], [0, 1], drawn(3))
    other = write_run(tmp_path / "b", ["reach", "push"], [0, 1], drawn(4), goal="random")
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
    write_run(tmp_path / "r/stopped", ["reach"], [0], drawn(2), (1000,), vlm=None)
    write_run(tmp_path / "r/begun", ["reach"], [1], drawn(2), (), vlm=None)
    (tmp_path / "r/begun/metrics.csv").write_text("env_steps,metric,value\n500,train/success,0.0\n50")
    resumed = write_run(tmp_path / "r/resumed", ["reach"], [2], drawn(5), (1000, 2000, 4000))
    config = yaml.safe_load((resumed / "config.yaml").read_text())
    config["data"]["env_steps"] = 4000
    (resumed / "config-2.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "r/empty").mkdir()
    with (tmp_path / "r/running/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert report([*map(str, sorted((tmp_path / "r").iterdir())), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert "running (FuRL, fixed goals) is running at 1,000 of 2,000 steps" in told
    assert "stopped (SAC, fixed goals) is stopped at 1,000 of 2,000 steps" in told
    assert "begun (SAC, fixed goals) has no evaluation yet" in told
    assert "empty is empty" in told and "resumed" not in told
    assert "different numbers of seeds: SAC 2, FuRL 3" in told
    assert "1,000 to 4,000" in told or "0 to 4,000" in told
    table = {row["method"]: row for row in rows(tmp_path / "out/table.csv")}
    assert table["SAC"]["seeds"] == "1" and table["FuRL"]["seeds"] == "3"


def test_one_line_for_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and nothing is written."""
    empty = tmp_path / "empty"
    empty.mkdir()
    none = write_run(tmp_path / "none", ["reach"], [0], drawn(1), ())
    MetricsCSV(none / "metrics.csv").log_metrics({"train/success": 0.0}, 500)
    one = write_run(tmp_path / "one", ["reach", "push"], [0], drawn(1))
    two = write_run(tmp_path / "two", ["reach"], [0], drawn(1), vlm=None)
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
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1 and told[0].startswith("furl-report: ") and message in told[0], told
    assert not (tmp_path / "out").exists() and [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    assert report([str(one), str(two), "--tasks", "reach", *out]) == 0


def test_real_runs(run: Run, tmp_path: Path) -> None:
    """What furl-fit writes is what furl-report reads: two methods apart by a setting, three seeds."""
    settings = {"data__seeds": "[0, 1, 2]", "data__env_steps": 20, "data__start_steps": 10}
    for name, rho in (("a", 0.05), ("b", 0.2)):
        run(name, **settings, model__rho=rho)
    argv = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    assert report(argv) == 0
    table = {row["method"]: row for row in rows(tmp_path / "out/table.csv")}
    assert set(table) == {"FuRL, rho=0.05", "FuRL, rho=0.2"}
    for name, rho in (("a", 0.05), ("b", 0.2)):
        own = from_metrics([tmp_path / name])["drawer-close"]
        assert len(own) == 3 and float(table[f"FuRL, rho={rho}"]["success"]) == pytest.approx(np.mean(own))
        assert read(tmp_path / name).state == "finished"


def test_methods_are_named_by_what_is_on(tmp_path: Path) -> None:
    """As the paper names them; --label has the last word."""
    vlm = MODEL["vlm"]
    for settings, data, name in (
        ({"vlm": vlm}, {}, "FuRL"),
        ({"vlm": vlm, "reward": "aligned", "relay": True}, {"goal_image": None}, "FuRL"),
        ({"vlm": vlm}, {"goal_image": False}, "FuRL without goal image"),
        ({"vlm": vlm, "reward": "goal_baseline", "relay": False}, {}, "VLM, goal baseline"),
        ({"vlm": vlm, "relay": False}, {}, "Align"),
        ({"vlm": vlm, "reward": "cosine", "relay": True}, {}, "Relay"),
        ({"vlm": vlm, "reward": "cosine", "relay": False}, {}, "VLM"),
        ({"vlm": None, "reward": "task", "relay": False}, {"reward": "dense"}, "SAC, dense reward"),
    ):
        assert method({"model": settings, "data": {**DATA, **data}}) == name
    runs = [
        read(write_run(tmp_path / "a", ["reach"], [0], drawn(1))),
        read(write_run(tmp_path / "b", ["reach"], [1], drawn(1), env_steps=9000)),  # the length does not tell apart
        read(write_run(tmp_path / "c", ["reach"], [0], drawn(1), lr=3e-4)),
        read(write_run(tmp_path / "d", ["reach"], [0], drawn(1), vlm=None, lr=3e-4)),
    ]
    assert labels(runs) == ["FuRL, lr=0.0001", "FuRL, lr=0.0001", "FuRL, lr=0.0003", "SAC"]
    folders = [str(tmp_path / name) for name in "abc"]
    assert report([*folders, "--label", "fast=c", "--out", str(tmp_path / "out")]) == 0
    assert [row["method"] for row in rows(tmp_path / "out/table.csv")] == ["FuRL", "fast"]


@pytest.mark.parametrize(("successes", "number"), [(0, 1), (1, 1), (3, 10), (50, 50), (17, 50)])
def test_wilson_is_scipys(successes: int, number: int) -> None:
    theirs = stats.binomtest(successes, number).proportion_ci(method="wilson")
    assert wilson(successes, number) == pytest.approx((theirs.low, theirs.high))


def test_interquartile_mean_is_scipys_trimmed_mean() -> None:
    random = np.random.default_rng(0)
    for shapes in ((3,), (3, 3), (5, 4, 5), (1, 1)):
        strata = [random.random(n) for n in shapes]
        assert interquartile_mean(strata) == pytest.approx(stats.trim_mean(np.concatenate(strata), 0.25))


@pytest.mark.parametrize("statistic", [task_mean, interquartile_mean])
def test_bootstrap_equals_all_resamples_enumerated(statistic: Any) -> None:
    """Two tasks of three seeds: 27 x 27 resamples, each as likely as the other."""
    strata = [np.array([0.0, 0.13, 1.0]), np.array([0.2, 0.71, 0.9])]
    resamples = [[values[list(draw)] for draw in itertools.product(range(3), repeat=3)] for values in strata]
    exact = [float(statistic([a, b])) for a, b in itertools.product(*resamples)]
    found = stratified_bootstrap(strata, statistic)
    assert found == pytest.approx(tuple(np.percentile(exact, [2.5, 97.5])), abs=0.02)
    assert stratified_bootstrap([np.array([0.5]), np.array([1.0])], statistic) is None
