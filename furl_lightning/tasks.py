"""The catalogue of Meta-World tasks: names, sets of tasks, and the instruction of each.

The instructions of the ten MT10 tasks are those of the FuRL paper's code (arXiv 2406.00645);
the paper gives none for the other forty, so those are ours, written in the same manner.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from furl_lightning.utils.errors import BadInput

METAWORLD = "MetaWorld"
"""The simulator whose tasks these are, as ``data.env.simulator`` names it."""
EPISODE_STEPS = 500
"""Length of Meta-World's own episodes, in environment steps; none terminates earlier."""

INSTRUCTIONS: dict[str, str] = {
    # MT10, the paper's own
    "reach": "reach a goal position",
    "push": "push the puck to a goal",
    "pick-place": "pick and place a puck to a goal",
    "door-open": "open a door with a revolving joint",
    "drawer-open": "open a drawer",
    "drawer-close": "push and close a drawer",
    "button-press-topdown": "press a button from the top",
    "peg-insert-side": "insert a peg sideways",
    "window-open": "push and open a window",
    "window-close": "push and close a window",
    # the fifteen more of MT25
    "coffee-pull": "pull a mug from a coffee machine",
    "pick-out-of-hole": "pick a puck up out of a hole",
    "disassemble": "pick a nut out of a peg",
    "pick-place-wall": "pick a puck, bypass a wall and place the puck",
    "basketball": "dunk the basketball into the basket",
    "stick-pull": "grasp a stick and pull a box with the stick",
    "button-press-wall": "bypass a wall and press a button",
    "faucet-open": "turn the faucet to open it",
    "door-lock": "lock the door by turning the lock",
    "lever-pull": "pull a lever up",
    "sweep-into": "sweep a puck into a hole",
    "faucet-close": "turn the faucet to close it",
    "coffee-button": "push a button on the coffee machine",
    "button-press-topdown-wall": "bypass a wall and press a button from the top",
    "dial-turn": "turn a dial",
    # the rest of MT50
    "assembly": "pick up a nut and place it onto a peg",
    "bin-picking": "grasp the puck from one bin and place it into another bin",
    "box-close": "grasp the cover and close the box with it",
    "button-press": "press a button",
    "coffee-push": "push a mug under a coffee machine",
    "door-close": "close a door with a revolving joint",
    "door-unlock": "unlock the door by turning the lock",
    "hand-insert": "insert the gripper into a hole",
    "hammer": "hammer a screw on the wall",
    "handle-press-side": "press a handle down sideways",
    "handle-press": "press a handle down",
    "handle-pull-side": "pull a handle up sideways",
    "handle-pull": "pull a handle up",
    "push-back": "pull a puck back to a goal",
    "plate-slide": "slide a plate into a cabinet",
    "plate-slide-side": "slide a plate into a cabinet sideways",
    "plate-slide-back": "slide a plate out of the cabinet",
    "plate-slide-back-side": "slide a plate out of the cabinet sideways",
    "peg-unplug-side": "unplug a peg sideways",
    "soccer": "kick a soccer ball into the goal",
    "stick-push": "grasp a stick and push a box with the stick",
    "push-wall": "bypass a wall and push a puck to a goal",
    "reach-wall": "bypass a wall and reach a goal position",
    "shelf-place": "pick and place a puck onto a shelf",
    "sweep": "sweep a puck off the table",
}

_NAMES = tuple(INSTRUCTIONS)
TASK_SETS: dict[str, tuple[str, ...]] = {
    "mt10": _NAMES[:10],
    "mt25": _NAMES[:25],
    "mt50": _NAMES,
}


class UnknownTask(BadInput):
    """A task or set of tasks that the simulator does not have."""


@dataclass(frozen=True)
class Agent:
    """One member of the population: an independent learner on one task with one seed."""

    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}/{self.seed}"


def task_names(tasks: str | Sequence[str]) -> list[str]:
    """Resolve a set's name, a task's name or a list of either to task names, in the order given.

    A trailing ``-v2`` or ``-v3`` is accepted and dropped.

    Raises:
        UnknownTask: a name that is neither, with the nearest that exists; a task given twice;
            no task at all.
    """
    names: list[str] = []
    for text in [tasks] if isinstance(tasks, str) else tasks:
        name = text.removesuffix("-v3").removesuffix("-v2")
        if name in TASK_SETS:
            names.extend(TASK_SETS[name])
        elif name in INSTRUCTIONS:
            names.append(name)
        else:
            raise _unknown(text, [*TASK_SETS, *INSTRUCTIONS])
    return _each_once(names, "'drawer-close' or 'mt10'")


def names_among(names: Sequence[str], known: Collection[str]) -> list[str]:
    """Names of tasks of another simulator than Meta-World, checked.

    Args:
        names: as given.
        known: those that there are; where there is none any will do.

    Raises:
        UnknownTask: a name that is none of them, or cannot be part of a file's; a task given twice; no task at all.
    """
    for name in names:
        if known and name not in known:
            raise UnknownTask(f"{_unknown(name, list(known))}; there are: {', '.join(known)}")
        if not re.fullmatch(r"[\w.:+-]*\w", name):
            raise UnknownTask(
                f"a task's name is made of letters, digits and _ . : + -, for files are named after it, not '{name}'; "
                "Gymnasium's data.env.options.ids gives an id another name: {short: long/name}"
            )
    return _each_once(list(names), f"'{next(iter(known), 'reach')}'")


def _unknown(name: str, known: list[str]) -> UnknownTask:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return UnknownTask(f"unknown task '{name}'; the nearest is '{near}'")


def _each_once(names: list[str], example: str) -> list[str]:
    if not names:
        raise UnknownTask(f"no task given; name at least one, e.g. {example}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnknownTask(f"task given twice: {', '.join(twice)}")
    return names
