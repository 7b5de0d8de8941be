"""The board beside a sweep's driver: what its trials report, and whether they are to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass

LOST = "its worker or node was lost"


@dataclass
class Notice:
    """The last report of a trial."""

    attempts: int = 0
    node: str = ""
    pid: int | None = None
    """Of its furl-fit."""
    env_steps: int = 0
    heard: float = 0.0
    """When, in seconds of the board's clock."""
    worker: str | None = None
    """That makes the attempt under way, if there is one."""
    why: str = ""
    """What ended the last attempt that failed."""


class Board:
    """An actor beside the driver: workers report their progress and learn whether to stop.

    What a worker says late, when another has begun the next attempt, does not count.
    """

    def __init__(self) -> None:
        self.notices: dict[str, Notice] = {}
        self.stopping = False

    def begin(self, name: str, worker: str, node: str) -> bool:
        """A worker begins an attempt; returns whether it should stop."""
        notice = self.notices.setdefault(name, Notice())
        if notice.worker is not None:  # it would have said that its attempt ended
            notice.why = LOST
        notice.worker, notice.node, notice.pid, notice.heard = worker, node, None, time.monotonic()
        notice.attempts += 1
        return self.stopping

    def report(self, name: str, worker: str, pid: int | None, env_steps: int) -> bool:
        """An attempt goes on; returns whether it should stop."""
        notice = self.notices[name]
        if notice.worker == worker:
            notice.pid, notice.heard = pid, time.monotonic()
            notice.env_steps = env_steps or notice.env_steps
        return self.stopping

    def end(self, name: str, worker: str, why: str) -> None:
        """An attempt has ended, badly if ``why`` says something."""
        notice = self.notices[name]
        if notice.worker == worker:
            notice.worker, notice.why = None, why or notice.why

    def stop(self) -> None:
        """Have all trials stop."""
        self.stopping = True

    def read(self) -> tuple[float, dict[str, Notice]]:
        """The board's time, and the last report of each trial."""
        return time.monotonic(), self.notices
