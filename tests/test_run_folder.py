"""A run's folder: whose it is, with locks and without, and places that cannot be written to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from furl_lightning.commands.fit import fit
from furl_lightning.commands.oracle import oracle
from furl_lightning.commands.probe import probe
from furl_lightning.commands.report import report
from furl_lightning.runs.folder import RunFolder
from furl_lightning.runs.lock import OWNER, FolderInUse, Owner, is_locked
from furl_lightning.sweep.command import sweep
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import refuse_unwritable

from .conftest import SMALL

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.fixture(params=NO_LOCKS, ids=lambda number: errno.errorcode[number])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locking fails as on a file system without locks: one cannot be had here."""
    fail_locking(monkeypatch, request.param)


def fail_locking(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(file: Any, operation: int) -> None:
        if operation != fcntl.LOCK_UN:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_an_owners_file_keeps_others_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path, "a")
    with folder.locked():
        (line,) = capsys.readouterr().err.splitlines()
        assert "has no locks" in line and OWNER in line
        assert is_locked(folder.path)
        owner = json.loads((folder.path / OWNER).read_text())
        assert (owner["host"], owner["pid"]) == (os.uname().nodename, os.getpid())
        with pytest.raises(FolderInUse) as refused, RunFolder(tmp_path, "a").locked():
            pass
        for part in (
            f"process {os.getpid()} on {owner['host']} since {owner['since']}",
            f"remove {folder.path / OWNER}",
        ):
            assert part in str(refused.value)
    assert not is_locked(folder.path) and not (folder.path / OWNER).exists()
    folder.refuse_if_taken()


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_what_a_lock_of_another_process_says(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path, "a")
    with folder.locked():
        fail_locking(monkeypatch, number)
        assert is_locked(folder.path)
        with pytest.raises(FolderInUse, match=f"in use by process {os.getpid()} on"), folder.locked():
            pass
    assert not (folder.path / OWNER).exists()


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process of this host cannot clean up; while it lives, and where nobody can know, the folder is its."""
    folder = RunFolder(tmp_path, "a")
    code = (
        "import errno, fcntl, os, sys, time\n"
        "from pathlib import Path\n"
        "from furl_lightning.runs.lock import locked\n"
        "def flock(file, operation): raise OSError(errno.ENOLCK, 'no')\n"
        "fcntl.flock = flock\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print(flush=True)\n"
        "    time.sleep(60)\n"
    )
    folder.path.mkdir()
    process = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    fail_locking(monkeypatch, errno.ENOLCK)
    with pytest.raises(FolderInUse, match=f"process {process.pid} on"), folder.locked():
        pass
    assert is_locked(folder.path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_locked(folder.path)  # though it is a zombie, for nobody has asked for its status
    left = (folder.path / OWNER).read_text()
    with folder.locked():
        assert Owner.read(folder.path / OWNER).pid == os.getpid()  # type: ignore[union-attr]
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    namespace = Owner.this().process.split()[0]
    for change, is_gone in (
        ({"pid": os.getpid()}, True),  # its id is another process's by now
        ({}, True),
        ({"host": "elsewhere"}, False),
        ({"process": f"{namespace[:-2]}7] 5"}, False),  # in another container of this host
    ):
        (folder.path / OWNER).write_text(json.dumps({**json.loads(left), **change}))
        assert is_locked(folder.path) is not is_gone
        if is_gone:
            with folder.locked():
                pass
        else:
            with pytest.raises(FolderInUse, match="if that has ended, remove"), folder.locked():
                pass
            assert (folder.path / OWNER).exists()
    (folder.path / OWNER).write_text("")  # it is just being written
    with pytest.raises(FolderInUse, match="in use by another process; if that"), folder.locked():
        pass


# -- places to write


@pytest.fixture
def places(tmp_path: Path) -> Callable[[str], Path]:
    """Places by their names, most of them useless."""
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    return lambda name: Path(name) if name.startswith("/") else tmp_path / name


USELESS = {
    "file": "is no folder",
    "file/below/it": "file is no folder",
    "dangling": "is a link to nowhere, which is not there",
    "dangling/x": "dangling is a link to nowhere, which is not there",
    "loop/x": "loop is a link to loop",
    "/proc/runs": "/proc cannot be written to",
    "/sys/kernel/x/y": "/sys/kernel cannot be written to",
    "/dev/null/x": "/dev/null is no folder",
    "x" * 300: "is too long a name",
    "new/" + "x" * 300 + "/y": "is too long a name",
    "line\nbreak": "has a line break or the like",
    "tab\tin it": "has a line break or the like",
    "bytes \udcff": "has a line break or the like",
}
GOOD = ["new", "new/below/it", "link", "link/new", "with blanks in it", "äöü 日本", "-", "non\u00a0breaking"]


@pytest.mark.parametrize("name", USELESS)
def test_places_that_cannot_be_written_to(name: str, places: Callable[[str], Path], tmp_path: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(BadInput) as refused:
        refuse_unwritable(places(name), "--out")
    assert USELESS[name] in str(refused.value) and str(refused.value).endswith("; name another with --out")
    assert before == {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize("name", GOOD)
def test_places_that_can_be_written_to(name: str, places: Callable[[str], Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    refuse_unwritable(places(name), "--out")
    assert before == sorted(tmp_path.rglob("*"))
    RunFolder(places(name), "run").path.mkdir(parents=True)


def test_every_command_refuses_them_in_one_line(
    places: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any work; furl-eval's has its place in test_eval.py."""
    small = [part for key, value in SMALL.items() for part in (f"--{key}", value)]
    commands: list[tuple[Callable[..., int], list[str], str]] = [
        (fit, [*small, "--name", "a"], "--runs"),
        (sweep, ["--methods", "{a: []}", "--name", "a"], "--runs"),
        (report, [str(tmp_path)], "--out"),
        (probe, [], "--out"),
        (oracle, [], "--out"),
    ]
    for command, argv, option in commands:
        for name in ("file", "dangling", "/proc/x", "x" * 300):
            assert command([*argv, option, str(places(name))]) == 2, (command, name)
            (line,) = capsys.readouterr().err.splitlines()
            assert f"name another with {option}" in line, line


@pytest.mark.parametrize(
    "name", ["", " ", "\u00a0 ", "a\nb", "a\tb", "\x1b[31m", "a\u2028b", "\udcff", "x" * 300, ".."]
)
def test_names_that_are_none(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's and a sweep's; other blanks, and letters beyond ASCII, are welcome."""
    for command, argv in ((fit, ["--data.tasks", "reach"]), (sweep, ["--methods", "{a: []}"])):
        assert command([*argv, "--runs", str(tmp_path), "--name", name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert ("must be a plain folder name" if len(name) < 300 else "too long a name") in line
    assert list(tmp_path.iterdir()) == []
