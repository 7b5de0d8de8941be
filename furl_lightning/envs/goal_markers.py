"""Goal markers: the spheres that show in a picture where the task's goal is.

Meta-World moves them in the state, where the next forward pass puts them back to where the model has them; of two it
hides one in the same way, to no effect. In eleven tasks the picture therefore shows a marker where the goal is not.
Here they are moved and hidden in the model: ``docs/goal_markers.md`` has the distances before and after.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mujoco
import numpy as np


class Markers(NamedTuple):
    """Sites of a task's model."""

    goal: str
    """Belongs where the goal is."""
    other: str | None = None
    """Belongs to the opposite task, which has the same model."""


MENDED = {
    "assembly": Markers("pegTop"),
    "coffee-button": Markers("coffee_goal", "mug_goal"),
    "coffee-pull": Markers("mug_goal", "coffee_goal"),
    "disassemble": Markers("pegTop"),
    "door-lock": Markers("goal_lock", "goal_unlock"),
    "door-unlock": Markers("goal_unlock", "goal_lock"),
    "faucet-close": Markers("goal_close", "goal_open"),
    "faucet-open": Markers("goal_open", "goal_close"),
    "handle-press": Markers("goalPress", "goalPull"),
    "handle-press-side": Markers("goalPress", "goalPull"),
    "handle-pull": Markers("goalPull", "goalPress"),
    "handle-pull-side": Markers("goalPull", "goalPress"),
    "sweep": Markers("goal"),
}
"""The tasks whose pictures differ from Meta-World's own."""


def mark_goal(task: str, env: Any, present: mujoco.MjData) -> None:
    """Put a task's marker where its goal is, and hide the other; the simulation does not depend on them.

    Args:
        task: a name from the catalogue.
        env: Meta-World's environment, just reset.
        present: its data, with all bodies where the model has them now.
    """
    markers, model = MENDED.get(task), env.model
    if markers is None:
        return
    site = model.site(markers.goal).id
    if not np.allclose(present.site_xpos[site], env._target_pos, rtol=0, atol=1e-6):  # for some read their goal there
        body = model.site_bodyid[site]
        rotation = present.xmat[body].reshape(3, 3)
        model.site_pos[site] = rotation.T @ (env._target_pos - present.xpos[body])
        model.site_sameframe[site] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE  # one at its body's origin would stay there
    if markers.other is not None:
        model.site_rgba[model.site(markers.other).id, 3] = 0.0
