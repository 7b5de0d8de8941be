"""What whoever runs an exported policy must know: its inputs and outputs, their order, scale and rate."""

from __future__ import annotations

from typing import Any

from furl_lightning import __version__
from furl_lightning.envs.simulators import make_environment
from furl_lightning.tasks import METAWORLD
from furl_lightning.training.policies import GOAL, Policy

RATE: float | None = 80.0
"""Environment steps a second of Meta-World: five of the simulator's, of 2.5 milliseconds each."""

_BODY = ["x", "y", "z", *(f"quaternion_{i}" for i in range(4))]
_BODIES = [f"{body}_{entry}" for body in ("object", "second_object") for entry in _BODY]
_STATE = ["hand_x", "hand_y", "hand_z", "gripper_opening", *_BODIES]
NUMBERS = [*_STATE, *(f"previous_{name}" for name in _STATE), "goal_x", "goal_y", "goal_z"]
"""The 39 numbers of an observation, in order."""
ACTION = {
    "entries": ["hand_dx", "hand_dy", "hand_dz", "gripper_force"],
    "clipping": "none is needed: tanh is the last layer; Meta-World clips to the range itself",
    "scale": "hand: a displacement of its target, 1 is 0.01 m; gripper: 1 closes with full force, -1 opens",
}


def contract(policy: Policy) -> dict[str, Any]:
    """All of it, for a JSON file beside the policy."""
    if policy.simulators.simulator == METAWORLD:
        numbers, action, rate = _numbers(policy), ACTION, RATE
    else:
        numbers, action, rate = _of_environment(policy)
    return {
        "policy": {
            "task": policy.agent.task,
            "seed": policy.agent.seed,
            "instruction": policy.instruction,
            "env_steps": policy.env_steps,
            "furl_lightning": __version__,
        },
        "observation": numbers if policy.pixel_size is None else _frames(policy),
        "action": {
            "name": "action",
            "shape": ["batch", policy.simulators.action_dim],
            "dtype": "float32",
            "range": [-1.0, 1.0],
            **action,
            "chosen": "deterministic: the mode of the policy before tanh",
        },
        "control_rate_hz": rate and rate / policy.simulators.action_repeat,
        "episode_steps": policy.simulators.episode_steps,
    }


def _numbers(policy: Policy) -> dict[str, Any]:
    hidden = policy.simulators.goal == "fixed"
    holds = (
        "nothing: the goal was fixed and hidden in training, and the policy takes zeros for whatever stands there"
        if hidden
        else "the goal's position in metres, which the policy needs: Meta-World's environments that hide it give zeros"
    )
    return {
        "name": "observation",
        "shape": ["batch", len(NUMBERS)],
        "dtype": "float32",
        "entries": NUMBERS,
        "scale": "raw, not normalised: positions in metres in the world's frame, quaternions in the order "
        "that the task gives them in; gripper_opening from 0 (closed) to 1; what a task lacks is 0; previous_ is the "
        "step before, at an episode's start the same as now",
        "goal_entries": {
            "at": list(range(len(NUMBERS) - GOAL, len(NUMBERS))),
            "goal": policy.simulators.goal,
            "hold": holds,
        },
    }


def _of_environment(policy: Policy) -> tuple[dict[str, Any], dict[str, Any], float | None]:
    """Observation, action and rate of an environment other than Meta-World, as its class tells them."""
    settings = policy.simulators
    environment = make_environment(settings.simulator, settings.options, policy.agent.task)
    try:
        own = list(environment.observation_names or [f"observation_{i}" for i in range(environment.observation_dim)])
        actions = list(environment.action_names or [f"action_{i}" for i in range(settings.action_dim)])
        rate = environment.steps_per_second
    finally:
        environment.close()
    padding = [f"zero_{i}" for i in range(settings.observation_dim - len(own))]
    name = type(environment).__name__
    numbers = {
        "name": "observation",
        "shape": ["batch", settings.observation_dim],
        "dtype": "float32",
        "entries": [*own, *padding],
        "scale": f"raw, not normalised, as {name} gives them"
        + ("; zero_ is 0: others of the population had more numbers" if padding else ""),
    }
    action = {
        "entries": actions,
        "clipping": "none is needed: tanh is the last layer",
        "scale": f"as step of {name} takes it",
    }
    return numbers, action, rate


def _frames(policy: Policy) -> dict[str, Any]:
    settings = policy.simulators
    return {
        "name": "frames",
        "shape": ["batch", *policy.observation_shape],
        "dtype": "uint8",
        "entries": "the last frames, oldest first; at an episode's start the first one stands for those before it; "
        "height from the top, width, red-green-blue",
        "scale": "0 to 255, not normalised",
        "drawn": f"{settings.render}, {settings.size} x {settings.size} pixels, then resized, bilinear and antialiased"
        + "; mirrored" * settings.mirror
        + "; blue and red exchanged" * settings.bgr,
        "goal_entries": {"at": [], "goal": settings.goal, "hold": "nothing: the policy sees frames alone"},
    }
