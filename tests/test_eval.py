"""furl-eval, furl-oracle, films, and what TensorBoard is given."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensordict import TensorDict

from furl_lightning.analysis.intervals import wilson
from furl_lightning.commands.evaluate import EPISODES, FPS, evaluate, summary, table
from furl_lightning.commands.oracle import oracle
from furl_lightning.data.policy import DeterministicPolicy, SomeAgents
from furl_lightning.envs.episodes import Episode, goal_image
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import Agent
from furl_lightning.training.film import GREEN, WHITE, Film, Studio, pictures, strip, write_video
from furl_lightning.training.trained import load

from .conftest import Run, assert_same, small_run

SHORT = {"data__env_steps": 20, "data__collection__start_steps": 10}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """The folder of a run of four agents; with the dense reward, so that returns tell them apart."""
    runs = tmp_path_factory.mktemp("runs")
    small_run(
        runs,
        tiny_clip,
        "trained",
        data__tasks="[drawer-close, reach]",
        data__seeds="[0, 1]",
        data__env__reward="dense",
        **SHORT,
    )
    return runs / "trained"


def test_equals_the_runs_own_last_evaluation(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the checkpoint file alone, in another folder, without the rings; and of one task."""
    alone = tmp_path / "elsewhere/copied.ckpt"
    alone.parent.mkdir()
    shutil.copy(trained / "checkpoints/last.ckpt", alone)
    assert evaluate(["--ckpt_path", str(alone), "--episodes", "50"]) == 0
    assert "every episode is the same, so each agent played one" in capsys.readouterr().out
    report = json.loads((alone.parent / "eval.json").read_text())
    logged = dict(
        line.split(",")[1:] for line in (trained / "metrics.csv").read_text().splitlines() if line.startswith("20,")
    )
    assert report["env_steps"] == 20 and len(report["agents"]) == 4
    assert report["agents"]["reach/0"]["return"] != report["agents"]["reach/1"]["return"]
    for agent, results in report["agents"].items():
        for name, values in results.items():
            assert values == [float(logged[f"eval/{name}/{agent}"])]
    for task, row in report["tasks"].items():
        assert row["episodes"] == 2 and row["success"] == float(logged[f"eval/success/{task}"])
        assert row["success_95"] == pytest.approx(wilson(round(2 * row["success"]), 2))
    assert report["mean"]["return"] == pytest.approx(float(logged["eval/return"]))
    assert evaluate(["--ckpt_path", str(trained), "--task", "reach"]) == 0
    reach = json.loads((trained / "eval.json").read_text())
    assert set(reach["agents"]) == {"reach/0", "reach/1"}
    assert reach["tasks"]["reach"] == report["tasks"]["reach"]


def test_random_goals_and_protocols(run: Run, tmp_path: Path) -> None:
    """The paper's ten episodes are those of the run's own evaluation."""
    run("random", data__env__goal="random", data__evaluation__episodes=3, **SHORT)
    logged = (tmp_path / "random/metrics.csv").read_text().splitlines()
    assert evaluate(["--ckpt_path", str(tmp_path / "random"), "--episodes", "3", "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out/eval.json").read_text())
    assert report["episodes_per_agent"] == 3 and len(report["agents"]["drawer-close/0"]["success"]) == 3
    assert f"20,eval/return,{report['mean']['return']!r}" in logged
    assert not (tmp_path / "random/eval.json").exists()


def test_some_agents_act_as_in_the_population(trained: Path) -> None:
    policy = DeterministicPolicy(load(trained).module.built.evaluated_agent)
    observation = torch.randn(4, 39)
    everyone = policy(TensorDict({"observation": observation}, [4]))["action"]
    some = SomeAgents(policy, [3, 1], 4)(TensorDict({"observation": observation[[3, 1]]}, [2]))["action"]
    assert torch.equal(some, everyone[[3, 1]])


def test_video_of_each_task(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An mp4 where there is an encoder, else an animated WebP; and a film strip."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "imageio_ffmpeg" in name else find_spec(name))
    assert evaluate(["--ckpt_path", str(trained), "--task", "reach", "--video", "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out/videos").iterdir()) == ["reach-0.png", "reach-0.webp"]
    with Image.open(tmp_path / "out/videos/reach-0.webp") as video:
        assert video.n_frames >= 13 and video.size == (384, 472)  # type: ignore[attr-defined]
        video.load()
        assert video.info["duration"] == 1000 / FPS
        video.seek(0)
        first = np.asarray(video.convert("RGB")).astype(int)
        video.seek(12)
        assert np.abs(first - np.asarray(video.convert("RGB"))).max() > 50


@pytest.mark.skipif(not importlib.util.find_spec("imageio_ffmpeg"), reason="the extra 'video' is not installed")
def test_mp4_can_be_read_back(tmp_path: Path) -> None:
    import imageio_ffmpeg

    frames = [np.full((96, 64, 3), 25 * i, np.uint8) for i in range(10)]
    path = write_video(tmp_path / "x", iter(frames), 10)
    assert path.name == "x.mp4"
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    assert (meta["size"], meta["fps"]) == ((64, 96), 10)
    levels = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    assert len(levels) == 10 and np.abs(np.array(levels) - 25 * np.arange(10)).max() < 6


def test_oracle(tmp_path: Path) -> None:
    """The goal image is the one that alignment starts from; the arrays are a whole demonstration."""
    assert oracle(["--tasks", "drawer-close", "--seeds", "[1]", "--out", str(tmp_path)]) == 0
    data = np.load(tmp_path / "drawer-close-1.npz")
    first = int(data["success"].argmax())
    frame = goal_image("drawer-close", 1, SimulatorSettings("fixed", "fast"))
    assert frame is not None and np.array_equal(data["frames"][first], frame)
    with Image.open(tmp_path / "drawer-close-1-goal.png") as goal:
        assert np.array_equal(np.asarray(goal), frame)
    assert np.array_equal(data["step"], np.arange(len(data["step"]))) and data["observation"].shape[1:] == (39,)
    assert np.isfinite(data["action"][:-1]).all() and np.abs(data["action"][:-1]).max() <= 1
    assert str(data["instruction"]) == "push and close a drawer"
    assert any(p.suffix in (".mp4", ".webp") for p in tmp_path.iterdir())


def test_what_is_drawn_follows_the_episode(trained: Path) -> None:
    """Text and border change where success does."""
    learner = load(trained)
    studio = Studio(learner.module, learner.data, [2])
    film: Film = studio.film(2, range(0, 51, 5))
    again = studio.film(2, range(0, 51, 5))
    studio.close()
    assert np.array_equal(film.episode.frames, again.episode.frames)
    assert film.vlm_reward is not None and film.vlm_reward.shape == (11,)
    film.episode.success[:] = False
    before = list(pictures(film))
    film.episode.success[-1] = True
    after = list(pictures(film))
    assert np.array_equal(before[0], after[0]) and not np.array_equal(before[-1], after[-1])
    assert tuple(after[-1][1, 1]) == (90, 200, 110) and strip(film).shape == (192 + 62, 8 * 196 - 4, 3)


def film_of(colours: list[tuple[int, int, int]], success: list[int]) -> Film:
    """A made-up film: frames of one colour each."""
    count = len(colours)
    episode = Episode(
        frames=np.array(colours, np.uint8)[:, None, None].repeat(192, 1).repeat(192, 2),
        step=np.arange(count, dtype=np.int32),
        success=np.array(success, bool),
        reward=np.zeros(count, np.float32),
        observation=np.zeros((count, 39), np.float32),
        action=np.zeros((count, 4), np.float32),
    )
    return Film(Agent("reach", 0), "reach a goal position", episode, np.linspace(0, 1, count, dtype=np.float32))


def test_colours_and_borders_are_the_episodes() -> None:
    """Each frame in its own colours and in its place; a green border, and green words, where there is success only."""
    colours, success = [(200, 30, 10), (10, 60, 220), (120, 20, 90)], [0, 1, 0]
    film = film_of(colours, success)
    sheet = strip(film)
    assert sheet.shape == (192 + 62, 3 * 196 - 4, 3)
    for place, (colour, successful) in enumerate(zip(colours, success, strict=True)):
        frame = sheet[24 : 24 + 192, 196 * place : 196 * place + 192]
        border = GREEN if successful else colour
        assert (frame[3:-3, 3:-3] == colour).all()
        assert all((edge == border).all() for edge in (frame[:3], frame[-3:], frame[:, :3], frame[:, -3:]))
        below = sheet[24 + 192 :, 196 * place : 196 * place + 192].reshape(-1, 3)
        assert (below == GREEN).all(1).any() == successful and (below == WHITE).all(1).any() != successful
    for picture, colour, successful in zip(pictures(film), colours, success, strict=True):
        assert picture.shape == (472, 384, 3) and (picture[4:380, 4:380] == colour).all()
        assert (picture[:4, :384] == (GREEN if successful else colour)).all()
    assert [strip(film_of(colours * 5, success * 5), count).shape[1] for count in (1, 4)] == [192, 4 * 196 - 4]


def test_summary_is_over_all_episodes_of_a_task(trained: Path) -> None:
    """Made-up results of four agents, four episodes each."""
    success, any_step = torch.zeros(4, 4), torch.zeros(4, 4)
    success[0, :3], success[3, 0] = 1, 1
    any_step[0], any_step[1, :2], any_step[3, :3] = 1, 1, 1
    returns = torch.tensor([[-10.0] * 4, [-30.0] * 4, [-500.0] * 4, [-400.0] * 4])
    results = {"success": success, "success_any": any_step, "return": returns}
    report = summary(load(trained), [0, 1, 2, 3], results)
    assert list(report["agents"]) == ["drawer-close/0", "drawer-close/1", "reach/0", "reach/1"]
    assert report["agents"]["reach/1"]["success_any"] == [1, 1, 1, 0] and report["episodes_per_agent"] == 4
    door, reach, mean = report["tasks"]["drawer-close"], report["tasks"]["reach"], report["mean"]
    for row, episodes, successes, any_steps, returned in (
        (door, 8, 3, 6, -20), (reach, 8, 1, 3, -450), (mean, 16, 4, 9, -235),
    ):  # fmt: skip
        assert row["episodes"] == episodes and row["return"] == returned
        assert (row["success"], row["success_any"]) == (successes / episodes, any_steps / episodes)
        assert row["success_95"] == wilson(successes, episodes) and row["success_any_95"] == wilson(any_steps, episodes)
    assert reach["return_95"] == pytest.approx((-487.5, -412.5))  # one or seven of eight are -500, each with 3.1 %
    low, high = mean["return_95"]
    assert -260 < low < -243 and -227 < high < -210
    lines = [re.split(r" {2,}", line) for line in table(report).splitlines()]
    assert lines[1] == ["task", "episodes", "success at last step", "success at any step", "return"]
    assert lines[3][:4] == ["drawer-close", "8", "37.5% (14% - 69%)", "75.0% (41% - 93%)"]
    assert lines[4] == ["reach", "8", "12.5% (2% - 47%)", "37.5% (14% - 69%)", "-450.0 (-488 to -412)"]
    assert lines[6][:3] == ["mean", "16", "25.0% (10% - 49%)"]
    assert EPISODES == {"paper": 10, "full": 50}


class PictureLogger(CSVLogger):
    """A logger of the user's that takes pictures, as Lightning's WandbLogger does."""

    def log_image(self, key: str, images: list[np.ndarray], step: int | None = None) -> None:
        (image,) = images
        folder = Path(self.root_dir) / key.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{step}.png")


def test_tensorboard_pages_change_nothing(run: Run, tmp_path: Path) -> None:
    """Film strips, histograms, layout and settings are there, and training is bit-equal without the films.

    A logger of the user's gets strips, settings and scalars too, by environment steps.
    """
    settings = {"data__env_steps": 60, "data__evaluation__every": 50}
    theirs = ["--trainer.logger", f"{__name__}.PictureLogger", "--trainer.logger.save_dir", str(tmp_path / "theirs")]
    with_films = run("with", "--pictures", "true", *theirs, **settings)
    without = run("without", **settings)
    assert_same(with_films, without, ignore=("callbacks",))
    events = EventAccumulator(str(tmp_path / "with"))
    events.Reload()
    tags: dict[str, Any] = events.Tags()
    assert {"film/drawer-close", "first_frame/drawer-close", "last_frame/drawer-close"} <= set(tags["images"])
    assert len(events.Images("film/drawer-close")) == 2
    assert (
        "reward_of_negatives/drawer-close" in tags["histograms"]
        or "reward_of_positives/drawer-close" in tags["histograms"]
    )
    assert "custom_scalars__config__" in tags["tensors"]
    plugins = set(events.PluginAssets("")) | set(events.summary_metadata)
    assert "_hparams_/experiment" in plugins and "_hparams_/session_start_info" in plugins
    assert [event.step for event in events.Scalars("eval/success")] == [50, 60]
    strips = sorted((tmp_path / "theirs").rglob("film-drawer-close/*.png"))
    assert [path.name for path in strips] == ["50.png", "60.png"]
    assert Image.open(strips[0]).size == (8 * 196 - 4, 192 + 62)
    (table,) = (tmp_path / "theirs").rglob("metrics.csv")
    with table.open(newline="") as file:
        logged = [(int(row["step"]), row["eval/success"]) for row in csv.DictReader(file)]
    assert [step for step, success in logged if success] == [50, 60] and {step for step, _ in logged} == {50, 60}
    assert "drawer-close" in table.with_name("hparams.yaml").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"model__vlm": "null", "model__reward__source": "task", "model__relay__enabled": "false"},
        {"model__reward__source": "cosine", "model__relay__enabled": "false"},
    ],
    ids=["sac", "zero-shot"],
)
def test_other_methods(run: Run, tmp_path: Path, settings: dict[str, str]) -> None:
    """Without a VLM, or without heads: pictures while training, an evaluation and a video after it."""
    run("other", "--pictures", "true", **settings, data__goal_image="false", **SHORT)
    assert evaluate(["--ckpt_path", str(tmp_path / "other"), "--video"]) == 0
    logged = (tmp_path / "other/metrics.csv").read_text()
    report = json.loads((tmp_path / "other/eval.json").read_text())
    assert f"20,eval/success,{report['mean']['success']!r}" in logged
    assert (tmp_path / "other/videos/drawer-close-0.png").is_file()


def test_one_line_for_bad_input(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and nothing is written."""
    last = trained / "checkpoints/last.ckpt"
    before = sorted(trained.rglob("*"))
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(last.read_bytes()[:2000])
    for name, change in {
        "setting": lambda s: s["settings"]["model"].update(no_such=1),
        "weights": lambda s: s["state_dict"].update(more=torch.zeros(1)),
        "silent": lambda s: s.pop("settings"),
        "vlm": lambda s: s["identity"].update({"model.vlm": "another"}),
    }.items():
        changed = torch.load(last, weights_only=True)
        changed["version"] = "0.0.1"
        change(changed)
        torch.save(changed, tmp_path / f"{name}.ckpt")
    for argv, message in (
        (["--ckpt_path", str(tmp_path / "empty")], "has no checkpoints/last.ckpt"),
        (["--ckpt_path", "/nowhere.ckpt"], "no checkpoint at /nowhere.ckpt"),
        (["--ckpt_path", str(damaged)], "is damaged or no checkpoint of furl-fit"),
        (["--ckpt_path", str(tmp_path / "setting.ckpt")], "was written by furl_lightning 0.0.1, this is"),
        (["--ckpt_path", str(tmp_path / "weights.ckpt")], "was written by furl_lightning 0.0.1, this is"),
        (["--ckpt_path", str(tmp_path / "silent.ckpt")], "it is of another version"),
        (["--ckpt_path", str(tmp_path / "vlm.ckpt")], "the checkpoint's is another"),
        (
            ["--ckpt_path", str(last), "--task", "drawer-clos"],
            "unknown task 'drawer-clos'; the nearest is 'drawer-close'",
        ),
        (["--ckpt_path", str(last), "--task", "push"], "has no agent for push; it has: drawer-close, reach"),
        (["--ckpt_path", str(last), "--episodes", "0"], "episodes must be at least 1, not 0"),
        (["--ckpt_path", str(last), "--protocol", "papr"], "protocol must be paper or full, not 'papr'"),
        (["--ckpt_path", str(last), "--vidio"], "unknown option 'vidio'; the nearest is 'video'"),
        ([], "ckpt_path"),
    ):
        assert evaluate(argv) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("furl-eval: ") and message in lines[0], lines
    assert sorted(trained.rglob("*")) == before and not (tmp_path / "eval.json").exists()
    for argv, message in (
        (["--tasks", "reech"], "unknown task 'reech'; the nearest is 'reach'"),
        (["--seeds", "[]"], "seeds must be different whole numbers"),
        (["--out", str(damaged)], "is no folder; name another with --out"),
    ):
        assert oracle([*argv, *(() if "--out" in argv else ("--out", str(tmp_path / "oracle")))]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("furl-oracle: ") and message in lines[0], lines
    assert not (tmp_path / "oracle").exists()
