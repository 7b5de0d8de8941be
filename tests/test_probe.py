"""furl-probe: its figures against independent ones and against the embedded model's card."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from furl_lightning.analysis.probe import Measured, above, spearman, wrongly_ordered
from furl_lightning.commands.probe import probe
from furl_lightning.envs.episodes import record
from furl_lightning.tasks import INSTRUCTIONS
from furl_lightning.training.trained import load
from furl_lightning.vlm import CLIP, Embedded
from furl_lightning.vlm.embedded import FOLDER

from .conftest import Run


def rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(newline="") as file:
        return {(row["reward"], row["task"]): row for row in csv.DictReader(file)}


def test_figures_are_scipys() -> None:
    random = np.random.default_rng(0)
    reward, time = random.random(40), np.arange(40)
    assert spearman(reward, time) == pytest.approx(stats.spearmanr(reward, time).statistic)
    assert wrongly_ordered(reward) == pytest.approx((1 - stats.kendalltau(reward, time).statistic) / 2)
    success, failure = random.random(12).round(1), random.random(30).round(1)
    pairs = (success[:, None] > failure) + 0.5 * (success[:, None] == failure)
    assert above(success, failure) == pytest.approx(pairs.mean())


def test_probe_equals_the_card(tmp_path: Path) -> None:
    """The embedded model on a task that it has backwards: the correlation that the card says, to its two digits."""
    card = (FOLDER / "README.md").read_text()
    tasks = ["drawer-open"]
    said = {task: re.search(rf"^\| {task} \|[^|]*\| (-?[\d.]+) \|", card, re.MULTILINE) for task in tasks}
    if not all(said.values()):
        pytest.skip("the card has no figures")
    assert probe(["--tasks", *tasks, "--out", str(tmp_path / "out")]) == 0
    table = rows(tmp_path / "out/probe.csv")
    for task, found in said.items():
        assert found is not None and f"{float(table['zero-shot', task]['correlation']):.2f}" == found.group(1)


def test_with_a_checkpoint(run: Run, tmp_path: Path, tiny_clip: Path) -> None:
    """Before and after alignment, on the run's own placements, sentences and VLM."""
    run("aligned", data__env_steps=20, data__start_steps=10, data__prompts="{drawer-close: shut it}")
    checkpoint = tmp_path / "aligned/checkpoints/last.ckpt"
    out = tmp_path / "out"
    assert probe(["--ckpt_path", str(checkpoint), "--processes", "1", "--out", str(out)]) == 0
    table = rows(out / "probe.csv")
    assert set(table) == {("zero-shot", "drawer-close"), ("aligned", "drawer-close")}
    vlm = CLIP(str(tiny_clip))
    expert = Measured(
        vlm, "drawer-close", record("drawer-close", 0, "fixed", "expert", 2), vlm.encode_texts(["shut it"])
    )
    assert float(table["zero-shot", "drawer-close"]["correlation"]) == pytest.approx(expert.correlation(), abs=1e-6)
    first, success = expert.embedding[[0, expert.success]]
    assert float(table["aligned", "drawer-close"]["way"]) == pytest.approx(float((first - success).norm()), abs=1e-5)
    trained = load(checkpoint)
    aligned = trained.module.frame_reward(0, torch.from_numpy(expert.episode.frames)).numpy()
    assert float(table["aligned", "drawer-close"]["correlation"]) == pytest.approx(
        expert.correlation(aligned), abs=1e-6
    )
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and page.count("src=") == page.count('src="data:')
    assert "href" not in page
    with Image.open(out / "drawer-close.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_first_success_is_always_drawn() -> None:
    """Whether its step is due or not."""
    vlm = Embedded()
    episode = record("drawer-close", 0, "fixed", "expert", 4)
    measured = Measured(vlm, "drawer-close", episode, vlm.encode_texts([INSTRUCTIONS["drawer-close"]]))
    assert measured.success is not None and episode.success[measured.success]
    assert not episode.success[: measured.success].any()
    assert episode.step[measured.success] == 78 and np.isfinite(episode.action).all()


def test_one_line_for_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and nothing is written."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    out = ["--out", str(tmp_path / "out")]
    for argv, message in (
        (["--tasks", "drawer-clos", *out], "unknown task 'drawer-clos'; the nearest is 'drawer-close'"),
        (["--vlm", "CLIPP", *out], "unknown VLM 'CLIPP'; the nearest is 'CLIP'"),
        (["--vlm", "CLIP", "--vlm.path", "/nowhere", *out], "there is no folder '/nowhere'"),
        (["--tasks", "reach", "--prompts", "{push: go}", *out], "prompts names push, not among the tasks: reach"),
        (["--seeds", "[1, 1]", *out], "seeds must be different whole numbers"),
        (["--goal", "fixd", *out], "fixd"),
        (["--ckpt_path", "/nowhere/last.ckpt", *out], "no checkpoint at /nowhere/last.ckpt"),
        (["--ckpt_path", "x", "--seeds", "[0]", *out], "--seeds cannot be given with --ckpt_path"),
        (["--processes", "0", *out], "processes must be at least 1, not 0"),
        (["--taks", "reach"], "unknown option 'taks'; the nearest is 'tasks'"),
        (["--out", str(tmp_path / "full")], "holds something else than a probe"),
    ):
        assert probe(argv) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1 and told[0].startswith("furl-probe: ") and message in told[0], told
    assert not (tmp_path / "out").exists()
