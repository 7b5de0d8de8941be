"""Goal markers are drawn at the goal, from the first frame on, and nothing but the picture depends on them."""

from __future__ import annotations

import numpy as np
import pytest

from furl_lightning.agents.sac import SACSettings
from furl_lightning.data.datamodule import FuRLDataModule
from furl_lightning.envs.goal_markers import MENDED
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.rendering import Renderer
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.method.alignment import AlignmentSettings
from furl_lightning.method.learner import RewardSettings
from furl_lightning.method.relay import RelaySettings
from furl_lightning.training.identity import OtherRun, refuse_other_run, run_identity


@pytest.mark.parametrize("task", ["sweep", "coffee-button", "door-lock", "disassemble", "handle-pull-side", "reach"])
def test_the_marker_is_at_the_goal_and_only_the_picture_changes(task: str) -> None:
    """Two episodes with random goals, beside a simulator without a picture, where Meta-World's markers stay."""
    ours, theirs = (
        MetaWorld(task, 0, SimulatorSettings("random", "fast")),
        MetaWorld(task, 0, SimulatorSettings("random")),
    )
    random, model = np.random.default_rng(0), ours.env.model
    marker, other = MENDED.get(task, ("goal", None))
    for _ in range(2):
        assert np.array_equal(ours.reset(), theirs.reset())
        for step in range(3):
            assert np.allclose(ours.drawn_state().site(marker).xpos, ours.env._target_pos, atol=1e-6)
            if task == "sweep":
                assert np.linalg.norm(theirs.env.data.site(marker).xpos - theirs.env._target_pos) > 0.5
            if other is not None:
                assert model.site(other).rgba[3] == 0 and theirs.env.model.site(other).rgba[3] == 1
            frame, color = ours.frame(), model.site(marker).rgba
            color[3] = 0
            covered = (frame != ours.frame()).any(-1).sum()
            color[3] = 1
            assert covered > 0 or task in ("coffee-button", "door-lock", "handle-pull-side", "disassemble"), step
            action = random.uniform(-1, 1, 4).astype(np.float32)
            one, same = ours.step(action), theirs.step(action)
            assert np.array_equal(one.observation, same.observation) and one[1:] == same[1:]
    ours.close()


def test_first_frames_show_the_present_scene_and_others_are_meta_worlds() -> None:
    """The window's panes, which Meta-World's first frame has elsewhere; one action later its frame and ours agree."""
    simulator = MetaWorld("window-close", 0, SimulatorSettings("fixed", "fast"))
    bare = Renderer(simulator.env.model)
    simulator.reset()
    first, stale = simulator.frame(), bare.render(simulator.env.data)
    simulator.step(np.zeros(4, np.float32))
    later = simulator.frame()
    assert np.array_equal(later, bare.render(simulator.env.data))
    changed = lambda frame: int((np.abs(frame.astype(int) - later).max(-1) > 30).sum())  # noqa: E731
    assert changed(stale) > 5 * changed(first)
    bare.close()
    simulator.close()


def test_pictures_of_two_kinds_are_not_mixed() -> None:
    """A checkpoint of a version that did not move markers is not gone on from, but can be looked at."""

    def identity(*tasks: str) -> dict[str, str]:
        data = FuRLDataModule(tasks=list(tasks))
        return run_identity(None, RewardSettings(), AlignmentSettings(), RelaySettings(), SACSettings(), data)

    ours = identity("sweep", "reach")
    old = {"identity": {name: value for name, value in ours.items() if not name.startswith("goal markers")}}
    assert len(old["identity"]) == len(ours) - 1
    with pytest.raises(OtherRun, match=r"pictures of sweep with goal markers off the goal, as an older version"):
        refuse_other_run(old, ours)
    refuse_other_run(old, ours, goes_on=False)
    refuse_other_run({"identity": ours}, ours)
    assert not any(name.startswith("goal markers") for name in identity("reach", "push"))
