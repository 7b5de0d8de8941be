"""Captions of a frame, composed from the state that the simulator was in.

A frame is sorted into one of six stages of its task, from "the arm is far away" to "done", and a
caption holds for a stage with a weight between 0 and 1. The bare instruction grows with the stage
and holds in full only where the task is done, for its similarity is to serve as a reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from furl_lightning.tasks import INSTRUCTIONS

FAR, APPROACHING, AT_OBJECT, BEGUN, ALMOST, DONE = range(6)
NUM_STAGES = 6

Weights = tuple[float, float, float, float, float, float]
EVERY: Weights = (1, 1, 1, 1, 1, 1)
INSTRUCTION: Weights = (0, 0, 0.03, 0.12, 0.4, 1)
STILL: Weights = (1, 1, 1, 0.4, 0, 0)


@dataclass(frozen=True)
class Phrases:
    """The words of one task."""

    thing: str  # what the gripper has to get at
    doing: str
    done: str
    undone: str
    also: tuple[str, ...] = ()  # other wordings of the instruction
    undoes: tuple[str, ...] = ()  # instructions that the state before the task fulfils


PHRASES: dict[str, Phrases] = {
    "coffee-pull": Phrases(
        "mug",
        "pulling the mug",
        "the mug is away from the coffee machine",
        "the mug stands at the coffee machine",
        ("pull the mug to a goal",),
    ),
    "pick-out-of-hole": Phrases(
        "puck",
        "picking the puck out of the hole",
        "the puck is out of the hole",
        "the puck lies in the hole",
        ("lift the puck out of the hole to a goal",),
    ),
    "disassemble": Phrases(
        "nut",
        "picking the nut off the peg",
        "the nut is off the peg",
        "the nut is on the peg",
        ("lift the nut off the peg",),
    ),
    "pick-place-wall": Phrases(
        "puck",
        "placing the puck behind the wall",
        "the puck is at the goal",
        "the puck is not at the goal",
        ("pick and place a puck to a goal", "pick up the puck and place it"),
    ),
    "basketball": Phrases(
        "basketball",
        "dunking the basketball",
        "the ball is in the basket",
        "the ball is not in the basket",
        ("put the ball into the basket",),
    ),
    "stick-pull": Phrases(
        "stick",
        "pulling the box with the stick",
        "the box is pulled to the goal",
        "the box is not pulled",
        ("pull a box with a stick",),
    ),
    "button-press-wall": Phrases(
        "button",
        "pressing the button behind the wall",
        "the button is pressed",
        "the button is not pressed",
        ("press a button", "press a button behind a wall"),
    ),
    "faucet-open": Phrases(
        "faucet", "opening the faucet", "the faucet is open", "the faucet is not open", ("open a faucet",)
    ),
    "door-lock": Phrases("lock", "locking the door", "the door is locked", "the door is not locked", ("lock a door",)),
    "lever-pull": Phrases(
        "lever", "pulling the lever up", "the lever is up", "the lever is down", ("raise the lever",)
    ),
    "sweep-into": Phrases(
        "puck",
        "sweeping the puck into the hole",
        "the puck is in the hole",
        "the puck is not in the hole",
        ("push the puck into a hole",),
    ),
    "faucet-close": Phrases(
        "faucet", "closing the faucet", "the faucet is closed", "the faucet is not closed", ("close a faucet",)
    ),
    "coffee-button": Phrases(
        "coffee machine's button",
        "pushing the coffee machine's button",
        "the coffee machine's button is pushed",
        "the coffee machine's button is not pushed",
        ("press the button of the coffee machine",),
    ),
    "button-press-topdown-wall": Phrases(
        "button",
        "pressing the button from the top behind the wall",
        "the button is pressed down",
        "the button is not pressed down",
        ("press a button from the top",),
    ),
    "dial-turn": Phrases(
        "dial", "turning the dial", "the dial is turned", "the dial is not turned", ("rotate the dial",)
    ),
    "assembly": Phrases(
        "nut",
        "placing the nut onto the peg",
        "the nut is on the peg",
        "the nut is not on the peg",
        ("put a nut onto a peg",),
    ),
    "bin-picking": Phrases(
        "puck",
        "moving the puck into the other bin",
        "the puck is in the other bin",
        "the puck is in the first bin",
        ("pick and place a puck into a bin",),
    ),
    "box-close": Phrases(
        "cover",
        "closing the box with the cover",
        "the box is closed",
        "the box is open",
        ("close a box", "put the cover onto the box"),
    ),
    "button-press": Phrases(
        "button",
        "pressing the button",
        "the button is pressed",
        "the button is not pressed",
        ("push a button", "press a button from the front"),
    ),
    "coffee-push": Phrases(
        "mug",
        "pushing the mug",
        "the mug stands under the coffee machine",
        "the mug is away from the coffee machine",
        ("push the mug to a goal",),
    ),
    "door-close": Phrases(
        "door",
        "closing the door",
        "the door is closed",
        "the door is open",
        ("close a door", "push and close a door"),
        ("open a door", "open a door with a revolving joint"),
    ),
    "door-unlock": Phrases(
        "lock", "unlocking the door", "the door is unlocked", "the door is locked", ("unlock a door",)
    ),
    "hand-insert": Phrases(
        "hole",
        "putting the gripper into the hole",
        "the gripper is in the hole",
        "the gripper is out of the hole",
        ("put the gripper into a hole",),
    ),
    "hammer": Phrases(
        "hammer",
        "hammering the screw",
        "the screw is in the wall",
        "the screw sticks out of the wall",
        ("hit the screw with the hammer",),
    ),
    "handle-press-side": Phrases(
        "handle",
        "pressing the handle down sideways",
        "the handle is down",
        "the handle is up",
        ("press down a handle sideways",),
    ),
    "handle-press": Phrases(
        "handle", "pressing the handle down", "the handle is down", "the handle is up", ("press down a handle",)
    ),
    "handle-pull-side": Phrases(
        "handle",
        "pulling the handle up sideways",
        "the handle is up",
        "the handle is down",
        ("pull up a handle sideways",),
    ),
    "handle-pull": Phrases(
        "handle", "pulling the handle up", "the handle is up", "the handle is down", ("pull up a handle",)
    ),
    "push-back": Phrases(
        "puck",
        "pulling the puck back",
        "the puck is back at the goal",
        "the puck is not back at the goal",
        ("pull the puck to a goal",),
    ),
    "plate-slide": Phrases(
        "plate",
        "sliding the plate into the cabinet",
        "the plate is in the cabinet",
        "the plate is out of the cabinet",
        ("push the plate into the cabinet",),
    ),
    "plate-slide-side": Phrases(
        "plate",
        "sliding the plate into the cabinet sideways",
        "the plate is in the cabinet",
        "the plate is out of the cabinet",
        ("push the plate sideways into the cabinet",),
    ),
    "plate-slide-back": Phrases(
        "plate",
        "sliding the plate out of the cabinet",
        "the plate is out of the cabinet",
        "the plate is in the cabinet",
        ("pull the plate out of the cabinet",),
    ),
    "plate-slide-back-side": Phrases(
        "plate",
        "sliding the plate out of the cabinet sideways",
        "the plate is out of the cabinet",
        "the plate is in the cabinet",
        ("pull the plate sideways out of the cabinet",),
    ),
    "peg-unplug-side": Phrases(
        "peg",
        "unplugging the peg",
        "the peg is unplugged",
        "the peg is plugged in",
        ("pull the peg out of the hole sideways",),
        ("insert a peg", "insert a peg sideways"),
    ),
    "soccer": Phrases(
        "soccer ball",
        "kicking the ball into the goal",
        "the soccer ball is in the goal",
        "the soccer ball is not in the goal",
        ("push the ball into the goal",),
    ),
    "stick-push": Phrases(
        "stick",
        "pushing the box with the stick",
        "the box is pushed to the goal",
        "the box is not pushed",
        ("push a box with a stick",),
    ),
    "push-wall": Phrases(
        "puck",
        "pushing the puck past the wall",
        "the puck is at the goal",
        "the puck is not at the goal",
        ("push the puck to a goal", "push the puck past the wall"),
    ),
    "reach-wall": Phrases(
        "goal",
        "reaching the goal behind the wall",
        "the gripper is at the goal",
        "the gripper is not at the goal",
        ("reach a goal position", "move the gripper to the goal"),
    ),
    "shelf-place": Phrases(
        "puck",
        "placing the puck onto the shelf",
        "the puck is on the shelf",
        "the puck is not on the shelf",
        ("put the puck onto a shelf",),
    ),
    "sweep": Phrases(
        "puck",
        "sweeping the puck off the table",
        "the puck is off the table",
        "the puck is on the table",
        ("push the puck off the table",),
    ),
}
"""The words of the training tasks."""

GENERIC: dict[str, Weights] = {
    "the robot arm is far from the object": (0.5, 0, 0, 0, 0, 0),
    "the robot arm comes closer to the object": (0, 0.5, 0, 0, 0, 0),
    "the gripper is at the object": (0, 0, 0.5, 0, 0, 0),
    "the task has begun": (0, 0, 0, 0.5, 0, 0),
    "the task is almost done": (0, 0, 0, 0, 0.5, 0),
    "the task is done": (0, 0, 0, 0, 0, 0.5),
    "the task is not done yet": (0.3, 0.3, 0.3, 0.1, 0, 0),
}
"""Captions that hold whatever the task is."""


def stage_captions(task: str) -> list[str]:
    """One caption a stage, the first wording of each; what stage retrieval is measured with."""
    words = PHRASES[task]
    return [
        f"the robot arm is far from the {words.thing}, {words.undone}",
        f"the robot arm comes closer to the {words.thing}",
        f"the gripper is at the {words.thing}, {words.undone}",
        f"{words.doing} has begun",
        f"{words.doing} is almost done",
        f"{words.doing} is done, {words.done}",
    ]


def captions(task: str) -> dict[str, Weights]:
    """Every caption of a task, and the weight that it holds with at each stage."""
    words = PHRASES[task]
    found: dict[str, Weights] = dict.fromkeys((INSTRUCTIONS[task], *words.also), INSTRUCTION)
    found |= dict.fromkeys((words.undone, *words.undoes), STILL)
    for stage, text in enumerate(stage_captions(task)):
        found[text] = one_stage(stage)
    found |= {
        f"the robot arm is far from the {words.thing}": one_stage(FAR),
        f"the gripper is at the {words.thing}": (0, 0, 1, 0.3, 0.3, 0),
        f"halfway through {words.doing}": one_stage(BEGUN),
        f"almost there: {words.done}": one_stage(ALMOST),
        words.done: one_stage(DONE),
        f"{words.doing} is done": one_stage(DONE),
        f"{words.doing} is not done yet": STILL,
        f"a robot arm and a {words.thing}": EVERY,
        f"a table for {words.doing}": EVERY,
    }
    return found


def one_stage(stage: int) -> Weights:
    """The weights of a caption that holds at one stage only."""
    first, second, third, fourth, fifth, sixth = (float(stage == other) for other in range(NUM_STAGES))
    return first, second, third, fourth, fifth, sixth


@dataclass(frozen=True)
class Scale:
    """What a task's distances are to be measured against; found in its experts' episodes."""

    at_object: float  # distance of gripper and object while it is handled, metres
    at_success: float  # what is left of the object's way at the first success, metres


def find_scale(hand_to_object: np.ndarray, to_target: np.ndarray, first_successes: np.ndarray) -> Scale:
    """A task's scale, from the frames of expert episodes, each [T], and where they first succeed."""
    return Scale(float(np.quantile(hand_to_object, 0.05)), float(np.median(to_target[first_successes])))


def stages(
    scale: Scale, hand_to_object: np.ndarray, to_target: np.ndarray, success: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sort the frames of one episode, in order.

    Returns:
        The stage, int64 [T], and the share of the object's way that is done, float32 [T] in [0, 1].
    """
    way = to_target[0] - scale.at_success
    if abs(way) < 0.01:  # hardly a way to go: only success tells
        share = success.astype(np.float32)
    else:
        share = np.clip((to_target[0] - to_target) / way, 0, 1).astype(np.float32)
    away = hand_to_object - scale.at_object
    stage = np.select(
        [success, share > 0.6, share > 0.15, away < 0.04, away < 0.12],
        [DONE, ALMOST, BEGUN, AT_OBJECT, APPROACHING],
        FAR,
    )
    return stage.astype(np.int64), share
