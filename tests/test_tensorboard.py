"""What TensorBoard shows of a run that was resumed, or that met a full disk; and how much room its events take."""

from __future__ import annotations

import errno
import itertools
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.data.provider import RunTagFilter
from tensorboard.data.server_ingester import NoDataServerError, SubprocessServerDataIngester, get_server_binary
from tensorboard.util.grpc_util import ChannelCredsType

from furl_lightning.runs.tensorboard import EVENTS, TensorBoard, drop_later_events, put_before_now

Curves = dict[str, list[tuple[int, float]]]


def read(folder: Path) -> Curves:
    """Scalars as TensorBoard's reader in Python gives them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def served(folder: Path) -> Curves:
    """The same from the server that a plain ``tensorboard --logdir`` starts."""
    try:
        binary = get_server_binary()
    except NoDataServerError:
        pytest.skip("there is no data server for this platform")
    server = SubprocessServerDataIngester(
        server_binary=binary,
        logdir=str(folder.parent),
        reload_interval=1,
        channel_creds_type=ChannelCredsType.LOCAL,
        samples_per_plugin={"scalars": 10_000},
    )
    server.start()
    runs = RunTagFilter(runs=[folder.name])
    deadline = time.monotonic() + 60
    before: Curves = {}
    while time.monotonic() < deadline:
        found = server.data_provider.read_scalars(
            RequestContext(), experiment_id="", plugin_name="scalars", downsample=10_000, run_tag_filter=runs
        )
        now = {tag: [(p.step, p.value) for p in points] for tags in found.values() for tag, points in tags.items()}
        if now and now == before:
            return now
        before = now
        time.sleep(1.0)
    raise AssertionError("the data server did not come to an end")


def test_the_whole_curve_after_five_resumes(tmp_path: Path) -> None:
    """Each time from a moment before what had been logged last, and what is not logged often at other steps."""
    folder = tmp_path / "a"
    for begin, end in ((None, 70), (60, 110), (100, 150), (100, 170), (160, 190), (160, 210)):
        logger = TensorBoard(folder, begin)
        for step in range((begin or 0) + 10, end + 1, 10):
            logger.log_metrics({"often": step + end / 1000}, step)
        logger.log_metrics({"at the end": 1.0}, end)
        logger.finalize("success")
        if end in (110, 150):  # on a machine whose clock is ahead
            newest = max(folder.glob(f"{EVENTS}*"))
            newest.rename(folder / f"{EVENTS}{int(time.time()) + 100}.host.1.0")
    assert len(list(folder.glob(f"{EVENTS}*"))) == 6
    ends = {
        step: 70 if step <= 60 else 110 if step <= 100 else 170 if step <= 160 else 210 for step in range(10, 211, 10)
    }
    often = [(step, pytest.approx(step + end / 1000)) for step, end in ends.items()]
    for shown in (read(folder), served(folder)):
        assert shown == {"often": often, "at the end": [(210, 1.0)]}


def test_events_from_before_a_full_disk_are_shown(tmp_path: Path) -> None:
    """Of a run that had been resumed: its second file must not ask TensorBoard to forget what its first one has."""
    for resume_at, steps in ((None, (10, 20, 30)), (20, (30, 40))):
        logger = TensorBoard(tmp_path / "a", resume_at)
        for step in steps:
            logger.log_metrics({"x": float(step)}, step)
        logger.flush()
    with logger.losing():
        raise OSError(errno.ENOSPC, "full")
    logger.log_metrics({"x": 50.0}, 50)
    logger.finalize("success")
    assert read(tmp_path / "a") == {"x": [(step, float(step)) for step in (10, 20, 30, 40, 50)]}


def test_files_keep_their_order_whenever_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four files within two seconds, at each way of falling into them, and one of a clock that is ahead."""
    for ways, seconds in enumerate(
        itertools.combinations_with_replacement((1_700_000_001, 1_700_000_002, 1_700_000_003), 4)
    ):
        folder = tmp_path / str(ways)
        folder.mkdir()
        for number, second in enumerate(seconds):
            monkeypatch.setattr("furl_lightning.runs.tensorboard.time.time", lambda second=second: second + 0.5)
            put_before_now(folder)
            ahead = 50 * (number == 1)
            (folder / f"{EVENTS}{second + ahead}.host.1.{9 + number}").write_text(str(number))
        assert [path.read_text() for path in sorted(folder.iterdir())] == ["0", "1", "2", "3"], seconds


@pytest.mark.parametrize("tail", [b"", b"\0" * 100, b"\x18\0\0\0\0\0\0\0torn"])
def test_what_a_crash_has_torn_is_cut_off(tail: bytes, tmp_path: Path) -> None:
    logger = TensorBoard(tmp_path)
    for step in (10, 20, 30):
        logger.log_metrics({"x": 1.0, "y": 2.0}, step)
    logger.finalize("success")
    (file,) = tmp_path.glob(f"{EVENTS}*")
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    drop_later_events(file, 30)
    assert file.read_bytes() == whole
    drop_later_events(file, 25)
    assert read(tmp_path) == {"x": [(10, 1.0), (20, 1.0)], "y": [(10, 2.0), (20, 2.0)]}


def test_fifty_agents_scalars_take_little_room(tmp_path: Path) -> None:
    """As one event; as one for each scalar they would take 30 bytes more each."""
    logger = TensorBoard(tmp_path)
    metrics = {f"sac/critic_loss/vlm_agent/drawer-close/{i}": 1.0 for i in range(1_000)}
    for step in range(10):
        logger.log_metrics(metrics, 1_000_000 + step)
    logger.finalize("success")
    (file,) = tmp_path.glob(f"{EVENTS}*")
    tag = len("sac/critic_loss/vlm_agent/drawer-close/100")
    assert file.stat().st_size / 10_000 < tag + 12
