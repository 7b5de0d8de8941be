"""What furl-sweep shows, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

SHOW = """
import sys
from pathlib import Path
from furl_lightning.sweep.ledger import Ledger
from furl_lightning.sweep.screen import Screen
from furl_lightning.sweep.trial import Trial
trials = [Trial(f"t{i}", "furl", "fixed", ("reach",), (i,), 100, ()) for i in range(20)]
ledger = Ledger(Path(sys.argv[1]), trials, resume=False)
with Screen("many", ledger) as screen:
    for trial in trials:
        ledger.states[trial.name].state = "running"
        screen.show()
        ledger.states[trial.name].end("failed", "killed [9]")
        screen.show()
"""


def test_a_terminal_shows_what_fits_and_keeps_the_whole_table(tmp_path: Path) -> None:
    """Twenty trials on a terminal of ten lines."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (10, 80))
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    environment.pop("LINES", None)
    process = subprocess.Popen([sys.executable, "-c", SHOW, str(tmp_path)], stdout=theirs, env=environment)
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # how Linux tells the end of a terminal
        while part := os.read(ours, 10_000):
            output += part
    os.close(ours)
    assert process.wait() == 0
    *screens, table = output.decode().split("many: ")
    assert all(screen.count("\n") <= 10 for screen in screens)
    assert table.splitlines()[0] == "0 finished, 20 failed"
    assert [line.split() for line in table.splitlines()[3:]] == [
        [f"t{i}", "failed", "0", "0", "killed", "[9]"] for i in range(20)
    ]


def test_elsewhere_each_change_of_state_is_a_line(tmp_path: Path) -> None:
    output = subprocess.run([sys.executable, "-c", SHOW, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = output.stdout.splitlines()
    assert len(lines) == 2 * 20 + 3 + 20
    assert lines[0].endswith("  t0  running on   [0 finished, 1 running, 19 waiting]")
    assert lines[1].endswith("  t0  failed: killed [9]  [0 finished, 19 waiting, 1 failed]")
    assert lines[40] == "many: 0 finished, 20 failed"
