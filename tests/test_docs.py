"""The docs and the paper's configurations keep up with the code."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from furl_lightning.data import FuRLDataModule
from furl_lightning.module import LEARNER_TAGS, FuRLModule

ROOT = Path(__file__).resolve().parents[1]


def test_every_metric_of_an_update_has_a_line() -> None:
    lines = (ROOT / "docs/metrics.md").read_text().splitlines()
    assert [tag for tag in LEARNER_TAGS if sum(line.startswith(f"| `{tag}` |") for line in lines) != 1] == []


@pytest.mark.parametrize("goal", ["fixed", "random"])
def test_paper_configs_set_what_exists(goal: str) -> None:
    config = yaml.safe_load((ROOT / f"conf/paper/mt10_{goal}.yaml").read_text())
    data = FuRLDataModule(**config["data"])
    assert len(data.agents) == 50
    assert (data.goal, data.lag_rule, data.env_steps_total) == (goal, "published", 1_000_000)
    assert set(config["model"]) <= set(inspect.signature(FuRLModule).parameters)
