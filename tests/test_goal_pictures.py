"""Goal images out of files: what is embedded, shown and refused; and how a run goes on when the file is gone."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from furl_lightning.analysis.probe import DISTANCE
from furl_lightning.commands.fit import fit
from furl_lightning.commands.probe import _of_checkpoint, score
from furl_lightning.data.goal_images import LARGEST, read_goal_images, read_picture
from furl_lightning.envs.episodes import record
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.training.identity import GOAL_FILES, OtherRun, refuse_other_run
from furl_lightning.vlm import CLIP

from .conftest import Run, load

SIZE = 192


def picture(width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Colours that differ from corner to corner."""
    rows, columns = np.mgrid[:height, :width]
    colours = [255 * rows // height, 255 * columns // width, np.where(rows > columns, 200, 40)]
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8))


def shown(folder: Path) -> dict[str, list[np.ndarray]]:
    """TensorBoard's goal images by tag."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("goal/")]
    decoded = lambda event: np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))  # noqa: E731
    return {tag: [decoded(event) for event in events.Images(tag)] for tag in tags}


def test_a_run_from_a_picture_to_its_resumption_without_it(
    run: Run, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two agents have the picture, one the expert's frame; embeddings, goals/, TensorBoard, probe, and resuming."""
    file = tmp_path / "done.png"
    picture().save(file)
    given = np.asarray(picture())
    settings: dict[str, Any] = {"data__goal_images": f"{{reach: {file}}}", "data__tasks": "[reach, drawer-close]"}
    settings |= {"data__env_steps": 20, "data__collection__start_steps": 10, "data__env__episode_steps": 10}
    first = run("goal", "--pictures", "true", **settings)
    vlm = CLIP(str(tiny_clip))
    folder = tmp_path / "goal"
    saved = {path.name: np.asarray(Image.open(path)) for path in (folder / "goals").iterdir()}
    assert saved.keys() == {"reach-0.png", "drawer-close-0.png"}
    assert np.array_equal(saved["reach-0.png"], given) and not np.array_equal(saved["drawer-close-0.png"], given)
    images = torch.from_numpy(np.stack([saved["reach-0.png"], saved["drawer-close-0.png"]]))
    embedding = first["FuRLDataModule"]["goal_embedding"]
    assert torch.equal(embedding, vlm.encode_images(images))
    in_tensorboard = {f"goal/{name[:-6]}/0": [image] for name, image in saved.items()}
    assert all(np.array_equal(in_tensorboard[tag], image) for tag, image in shown(folder).items())
    assert shown(folder).keys() == in_tensorboard.keys()

    file.unlink()
    argv = ["--runs", str(tmp_path), "--name", "goal", "--ckpt_path", "last", "--data.env_steps", "40"]
    argv += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    for other in ("null", "{drawer-close: done.png}"):
        capsys.readouterr()
        assert fit([*argv, "--data.goal_images", other]) == 2
        assert f"{GOAL_FILES} is" in (line := capsys.readouterr().err) and "the checkpoint's is of reach" in line
    assert fit(argv) == 0
    went_on = load(folder)["FuRLDataModule"]
    assert went_on["env_steps"] == 40 and torch.equal(went_on["goal_embedding"], embedding)
    assert shown(folder).keys() == in_tensorboard.keys() and all(len(times) == 1 for times in shown(folder).values())

    none = dict.fromkeys(("vlm", "simulator", "prompts", "seeds", "goal", "l2_margin"))
    subject = _of_checkpoint(argparse.Namespace(ckpt_path=str(folder), **none), ["reach"])
    assert [(agent.task, agent.seed) for agent in subject.goals] == [("reach", 0)]
    episode = record("reach", 0, SimulatorSettings("fixed", "fast"), "random", 50)
    key = (subject.agents[0], "random")
    distance = (vlm.encode_images(torch.from_numpy(episode.frames)) - embedding[0]).norm(dim=-1)
    scored = score(subject, "reach", {key: episode}, {})[DISTANCE][key]  # type: ignore[dict-item, index]
    assert np.allclose(scored.reward, -distance, atol=1e-5)


def test_a_larger_picture_is_resized_and_oriented_as_frames_are(tmp_path: Path) -> None:
    large = picture(400, 400)
    large.save(tmp_path / "large.webp", lossless=True)
    files = {"reach": str(tmp_path / "large.webp")}
    resized = np.asarray(large.resize((128, 128), Image.Resampling.BICUBIC))
    assert np.array_equal(read_goal_images(files, SimulatorSettings(size=128))["reach"], resized)
    ours = read_goal_images(files, SimulatorSettings(size=128, mirror=True, bgr=True))["reach"]
    assert np.array_equal(ours, resized[:, ::-1, ::-1])


def test_a_photograph_is_turned_as_its_camera_was(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    picture().rotate(90).save(tmp_path / "photo.jpg", quality=100, exif=exif)
    pixels = read_picture(str(tmp_path / "photo.jpg"), SIZE, "data.goal_images.reach").astype(int)
    assert np.abs(pixels - np.asarray(picture())).mean() < 3


def truncated(file: Path) -> None:
    picture().save(file, "PNG")
    file.write_bytes(file.read_bytes()[:500])


def transparent(file: Path) -> None:
    made = picture()
    made.putalpha(200)
    made.save(file, "PNG")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absent": (lambda file: None, "there is no file '{file}', seen from "),
    "folder": (lambda file: file.mkdir(), "there is no file '{file}', seen from "),
    "text": (
        lambda file: file.write_text("a picture"),
        "{file} is damaged or no picture; give a PNG, JPEG, WebP or BMP",
    ),
    "truncated": (truncated, "{file} is damaged or no picture; give a PNG, JPEG, WebP or BMP"),
    "unsafe": (lambda file: picture().save(file, "EPS"), "{file} is damaged or no picture; give a PNG"),
    "small": (lambda file: picture(100, 100).save(file, "PNG"), "must be square and at least 192x192 pixels"),
    "oblong": (lambda file: picture(300, 200).save(file, "PNG"), "not 300x200 (width x height)"),
    "huge": (lambda file: picture(LARGEST + 1, 1).save(file, "PNG"), f"must be at most {LARGEST} pixels high and wide"),
    "black": (lambda file: Image.new("RGB", (SIZE, SIZE)).save(file, "PNG"), "must show the task done, but is of one"),
    "deep": (lambda file: Image.new("I;16", (SIZE, SIZE)).save(file, "PNG"), "{file} has more than 8 bits a channel"),
    "transparent": (transparent, "{file} is transparent in places; save it as an ordinary RGB picture"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_picture_that_cannot_be_used(
    kind: str, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = BAD[kind]
    file = tmp_path / "goal.png"
    make(file)
    line = refusal(tmp_path, tiny_clip, capsys, "--data.goal_images", f"{{reach: {file}}}")
    assert line.startswith("furl-fit: data.goal_images.reach: ") and said.format(file=file) in line


ZERO_SHOT = ("--model.reward.source", "cosine", "--model.relay.enabled", "false")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["{push: a.png}"], "data.goal_images names push, not among data.tasks: reach"),
        (["a.png"], "data.goal_images must be files by task, {reach: done.png}, not a.png"),
        (["{reach: 3}"], "data.goal_images must be files by task, {reach: done.png}, not {'reach': 3}"),
        (["{reach: a.png}", "--data.goal_image", "false"], "data.goal_images are of no use with data.goal_image false"),
        (
            ["{reach: a.png}", *ZERO_SHOT],
            "data.goal_images are for heads to align with, but model.reward.source cosine",
        ),
    ],
)
def test_settings_that_contradict_a_picture(
    flags: list[str], said: str, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(tmp_path, tiny_clip, capsys, "--data.goal_images", *flags)


def refusal(tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line with which furl-fit refuses, having written nothing."""
    argv = ["--data.tasks", "[reach]", "--runs", str(tmp_path / "runs"), "--name", "bad", *flags]
    capsys.readouterr()
    assert fit([*argv, "--model.vlm", "CLIP", "--model.vlm.path", str(tiny_clip), "--trainer.accelerator", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not (tmp_path / "runs").exists()
    return line


def test_checkpoints_of_before_there_were_pictures_go_on() -> None:
    refuse_other_run({"identity": {}}, {GOAL_FILES: "none"})
    with pytest.raises(OtherRun, match="is of reach, the checkpoint's is none"):
        refuse_other_run({"identity": {}}, {GOAL_FILES: "of reach"})
