"""That what an evaluation's pictures take is given back; benchmarks/memory.py looks at whole runs."""

from __future__ import annotations

from pathlib import Path

from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.simulator import SimulatorSettings


def megabytes() -> float:
    """Memory of this process that is not a file's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def test_a_simulator_that_draws_gives_its_memory_back() -> None:
    """Each takes about 120 MB, and every evaluation films all tasks; allocators keep some of the first."""
    after = []
    for _ in range(5):
        simulator = MetaWorld("drawer-close", 0, SimulatorSettings(render="fast"))
        simulator.reset()
        simulator.frame()
        simulator.close()
        after.append(megabytes())
    assert after[-1] - after[1] < 200  # three that are not given back: 360
