"""Gymnasium's environments and Fetch by the contract: replayed, drawn, flattened, scaled; and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv

from furl_lightning.envs.environment import Environment, Picture
from furl_lightning.envs.fetch import Fetch
from furl_lightning.envs.gymnasium import Gymnasium
from furl_lightning.envs.hosted import Hosted
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.envs.simulators import make_environment, make_simulator
from furl_lightning.utils.errors import BadInput

from .conftest import Run, assert_same
from .test_resume import IGNORE, rings

FETCH = list(Fetch.tasks)
SMALL = Picture(64, "light")


class Point(gymnasium.Env[Any, Any]):
    """A point that actions move: its spaces, info, picture and end are what the test gives."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None, **given: Any) -> None:
        self.render_mode, self.given = render_mode, given
        self.observation_space = given.get("observations", spaces.Box(-1, 1, (2, 2)))
        self.action_space = given.get(
            "actions", spaces.Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32))
        )
        self.picture = given.get("picture", np.full((20, 30, 3), 7, np.uint8))
        self.taken: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.taken = []
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        over = len(self.taken) >= self.given.get("end", 1000)
        info = self.given.get("info", {"success": over})
        return self.observation_space.sample(), float(len(self.taken)), over, False, info

    def render(self) -> Any:
        if isinstance(self.picture, np.ndarray):  # one number says how far the episode is
            return self.picture + np.uint8(len(self.taken))
        return self.picture


class SwungUp(PendulumEnv):
    """Pendulum with a success flag."""

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"up": observation[0] > 0.9}


class NoPicture(Point):
    metadata = {"render_modes": ["ansi"]}


gymnasium.register("furl-tests/Point-v0", Point, max_episode_steps=20)
gymnasium.register("furl-tests/NoPicture-v0", NoPicture)
gymnasium.register("furl-tests/SwungUp-v0", lambda **given: SwungUp(**given), max_episode_steps=200)


def point(**given: Any) -> Gymnasium:
    return Gymnasium("furl-tests/Point-v0", make=given)


def of(environment: Gymnasium) -> Any:
    """Gymnasium's own environment."""
    return environment._env.unwrapped


def swing() -> Gymnasium:
    return Gymnasium("swing", {"swing": "furl-tests/SwungUp-v0"}, "up")


def play(environment: Environment, seed: int, steps: int = 20, draw: bool = False) -> list[Any]:
    """All that an episode of random actions gives."""
    random = np.random.default_rng(seed)
    given: list[Any] = [environment.reset(seed)]
    for _ in range(steps):
        if draw:
            environment.frame()
        given += environment.step(random.uniform(-1, 1, environment.action_dim).astype(np.float32))
    return given


def same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("make", [*[lambda task=task: Fetch(task) for task in FETCH], swing], ids=[*FETCH, "swing"])
def test_an_episode_follows_from_its_seed_and_actions(make: Any) -> None:
    """Bit by bit: after other episodes, in another environment, and whatever NumPy's generator."""
    environment = make()
    first = play(environment, 3)
    assert first[0].shape == (environment.observation_dim,) == (len(environment.observation_names),)
    assert np.isfinite(np.concatenate(first[::3][:1] + first[1::3])).all()
    other = play(environment, 4)
    assert not np.array_equal(first[0], other[0])
    np.random.seed(5)
    assert same(play(environment, 3), first)
    assert same(play(make(), 3), first)
    environment.close()


@pytest.mark.parametrize("task", ["reach", "pick-and-place"])
def test_pictures_leave_the_physics_alone(task: str) -> None:
    drawn, blind = Fetch(task), Fetch(task)
    drawn.picture = SMALL
    assert same(play(drawn, 1, draw=True), play(blind, 1))
    drawn.close()


def test_environments_in_turns_draw_as_each_alone() -> None:
    """Two tasks, and one task twice; each picture shows its own goal, wherever the last was drawn."""

    def walked(environment: Environment, seed: int) -> np.ndarray:
        play(environment, seed, 5)
        return environment.frame()

    alone = {}
    for task, seed in [("reach", 0), ("reach", 1), ("push", 0)]:
        environment = Fetch(task)
        environment.picture = SMALL
        alone[task, seed] = walked(environment, seed)
        environment.close()
    assert not np.array_equal(alone["reach", 0], alone["reach", 1])
    environments = {(task, seed): Fetch(task) for task, seed in alone}
    for environment in environments.values():
        environment.picture = SMALL
    for _ in range(2):
        for (task, seed), environment in environments.items():
            assert np.array_equal(walked(environment, seed), alone[task, seed])
            play(environment, seed + 7, 3)
            environment.frame()
    play(environments["reach", 0], 0, 5)
    environments["push", 0].frame()
    for _ in range(2):
        assert np.array_equal(environments["reach", 0].frame(), alone["reach", 0])
    for environment in environments.values():
        environment.close()


def test_the_picture_is_upright_and_shows_the_goal() -> None:
    """The goal is a red ball: higher in the picture where it is higher; the table is below the robot."""
    rows = []
    for height in (0.45, 0.75):
        environment = Fetch("reach")
        environment.picture = Picture(192, "full")
        environment.reset(0)
        of(environment).goal = np.array([1.45, 0.6, height])
        picture = environment.frame().astype(int)
        assert picture.shape == (192, 192, 3)
        red = (picture[..., 0] > 120) & (picture[..., 1:].max(-1) < 60)
        rows.append(np.argwhere(red).mean(0)[0])
        environment.close()
    assert rows[1] < rows[0] - 10


def test_cameras() -> None:
    pictures = []
    for camera in (None, "external_camera_0", "gripper_camera_rgb"):
        environment = Fetch("push")
        environment.picture = Picture(64, "fast", camera)
        environment.reset(0)
        pictures.append(environment.frame())
        environment.close()
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])
    environment = Fetch("push")
    environment.picture = Picture(64, "fast", "corner2")
    environment.reset(0)
    with pytest.raises(BadInput) as refused:
        environment.frame()
    assert str(refused.value) == (
        "data.env.camera must be one of head_camera_rgb, gripper_camera_rgb, lidar, external_camera_0 (the cameras of "
        "gymnasium_robotics:FetchPush-v4) or null, not 'corner2'"
    )


def test_the_usual_camera_is_that_of_the_environments_viewer() -> None:
    own = Gymnasium("gymnasium_robotics:FetchPush-v4")
    camera = own._usual_camera(of(own).model)
    assert [camera.distance, camera.azimuth, camera.elevation, *camera.lookat] == [2.5, 132, -14, 1.3, 0.75, 0.55]
    named = Gymnasium("HalfCheetah-v5", make={"camera_name": "track"})
    assert named._usual_camera(of(named).model).fixedcamid == 0
    pictures = []
    for environment in (own, Fetch("push")):  # which looks from nearer
        environment.picture = SMALL
        environment.reset(0)
        pictures.append(environment.frame())
        environment.close()
    assert not np.array_equal(pictures[0], pictures[1])


def test_observations_in_their_order() -> None:
    """What the goal is about first, then the other keys by name; each flattened."""
    box = spaces.Box(-1, 1, (1, 2))
    keys = ["zeta", "desired_goal", "alpha", "observation"]
    environment = point(observations=spaces.Dict(dict.fromkeys(keys, box)))
    order = ["observation", "desired_goal", "alpha", "zeta"]
    assert environment.observation_names == [f"{key}_{i}" for key in order for i in range(2)]
    assert environment.observation_dim == 8
    given: dict[str, np.ndarray] = {}
    own = of(environment)
    reset = own.reset
    own.reset = lambda **how: (given.update(reset(**how)[0]), (given, {}))[1]
    assert np.array_equal(environment.reset(0), np.concatenate([given[key].reshape(-1) for key in order]))
    assert point().observation_names == [f"observation_{i}" for i in range(4)]
    assert Fetch("reach").observation_names[-3:] == ["desired_goal_0", "desired_goal_1", "desired_goal_2"]  # type: ignore[index]


def test_actions_are_scaled_to_the_bounds() -> None:
    environment = point()
    environment.reset(0)
    for given in [(-1, -1), (1, 1), (0, 0), (0.5, -0.5)]:
        environment.step(np.array(given, np.float32))
    taken = of(environment).taken
    assert np.allclose(taken, np.array([[-1, 0], [3, 10], [1, 5], [2, 2.5]])) and taken[0].dtype == np.float32
    action = np.random.default_rng(0).uniform(-1, 1, 2).astype(np.float32)
    unit = point(actions=spaces.Box(-1, 1, (2, 1)))
    unit.reset(0)
    unit.step(action)
    assert np.array_equal(of(unit).taken[0], action[:, None])


def test_an_end_lasts() -> None:
    """Steps after it do nothing, and give the last again; a reset begins anew."""
    environment = point(end=3)
    environment.reset(0)
    steps = [environment.step(np.zeros(2, np.float32)) for _ in range(6)]
    assert [step[1:] for step in steps] == [(1, False), (2, False), *[(3, True)] * 4]
    assert all(np.array_equal(step[0], steps[2][0]) for step in steps[3:])
    assert not np.array_equal(steps[1][0], steps[2][0]) and len(of(environment).taken) == 3
    environment.reset(1)
    assert environment.step(np.zeros(2, np.float32))[1:] == (1, False)


def test_lengths_of_episodes() -> None:
    """The registered time limit is off, and is what is said."""
    assert [point().episode_steps, Fetch("reach").episode_steps, swing().episode_steps] == [20, 50, 200]
    assert Gymnasium("furl-tests/NoPicture-v0").episode_steps == 1000
    environment = point()
    environment.reset(0)
    assert [environment.step(np.zeros(2, np.float32))[1] for _ in range(25)] == list(range(1, 26))


def test_success_by_its_key() -> None:
    for info, key, success in [
        ({"success": True, "is_success": False}, None, True),
        ({"is_success": np.float32(1)}, None, True),
        ({"solved": np.array([0.0])}, "solved", False),
    ]:
        environment = Gymnasium("furl-tests/Point-v0", success=key, make={"info": info})
        environment.reset(0)
        assert environment.step(np.zeros(2, np.float32))[2] is success
    environment = Gymnasium("swing", {"swing": "furl-tests/SwungUp-v0"}, "up")
    environment.reset(0)
    assert isinstance(environment.step(np.zeros(1, np.float32))[2], bool)


def test_its_own_picture_begins_in_the_middle_of_an_episode() -> None:
    """It is made to draw when the first picture is wanted, and comes to the same step."""
    environment = point()
    environment.reset(0)
    assert of(environment).render_mode is None
    steps = [environment.step(np.zeros(2, np.float32)) for _ in range(3)]
    assert (environment.frame() == 10).all() and of(environment).render_mode == "rgb_array"
    step = environment.step(np.zeros(2, np.float32))
    assert step[1] == 4 and (environment.frame() == 11).all()
    again = point()
    again.reset(0)
    for one in [*steps, step]:
        assert same(list(one), list(again.step(np.zeros(2))))
    settings = SimulatorSettings(render="light", size=16, observation_dim=4, action_dim=2)
    hosted = Hosted(environment, "point", 0, settings)
    hosted.reset()
    assert hosted.frame().shape == (16, 16, 3)


DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
NAME = "furl-tests/Point-v0"
BAD: dict[str, Any] = {
    f"the action space of {NAME} must be a Box of real numbers with finite bounds, not a Discrete": {
        "actions": DISCRETE
    },
    f"the action space of {NAME} must be a Box of real numbers with finite bounds, not one without bounds": {
        "actions": spaces.Box(-np.inf, 1, (2,))
    },
    f"the action space of {NAME} must be a Box of real numbers with finite bounds, not one of int64": {
        "actions": spaces.Box(-1, 1, (2,), np.int64)
    },
    f"the observation space of {NAME} must be a Box or a Dict of Boxes, not a Discrete": {"observations": DISCRETE},
    f"'b' in the observations of {NAME} must be a Box, not a Discrete": {
        "observations": spaces.Dict({"a": BOX, "b": DISCRETE})
    },
    f"the info of {NAME} must have 'success' or 'is_success', or what data.env.options.success names; it has "
    "'won', 'lost'": {"info": {"won": True, "lost": False}},
    f"the info of {NAME} must have 'success' or 'is_success', or what data.env.options.success names; it has nothing": {
        "info": {}
    },
    f"'success' in the info of {NAME} must be true or false, not 'yes'": {"info": {"success": "yes"}},
    f"render of {NAME} must give a picture, uint8 [height, width, 3], not None": {"picture": None},
    f"render of {NAME} must give a picture, uint8 [height, width, 3], not [20, 30] of uint8": {
        "picture": np.zeros((20, 30), np.uint8)
    },
    "data.env.options.make must be without max_episode_steps: data.env.episode_steps is the length of an episode": {
        "max_episode_steps": 3
    },
}


def first_moments(task: str, **options: Any) -> None:
    environment = Gymnasium(task, **options)
    environment.reset(0)
    environment.step(np.zeros(environment.action_dim, np.float32))
    environment.frame()


def refusal(task: str, **options: Any) -> str:
    with pytest.raises(BadInput) as refused:
        first_moments(task, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("line", BAD)
def test_what_it_cannot_host_is_refused(line: str) -> None:
    assert refusal(NAME, make=BAD[line]) == line


def test_bad_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = "; one that a module registers is named with it, such as gymnasium_robotics:FetchReach-v4 "
    unknown += "(pip install 'furl_lightning[fetch]')"
    near = "Gymnasium has no environment 'Pendulm-v1'; the nearest is 'Pendulum-v1'"
    assert refusal("swing", ids={"swing": "Pendulm-v1"}) == near + unknown
    assert refusal("gymnasium:Pendulum").startswith(
        "Gymnasium has no environment 'Pendulum'; the nearest is 'Pendulum-v"
    )
    assert refusal("no_such_module:Push-v1") == (
        "there is no module no_such_module for the environment 'no_such_module:Push-v1': install it, or put it into "
        "the current folder"
    )
    assert refusal("furl-tests/SwungUp-v0", success="won") == (
        "the info of furl-tests/SwungUp-v0 must have 'won', or what data.env.options.success names; it has 'up'"
    )
    assert refusal("furl-tests/NoPicture-v0") == (
        "furl-tests/NoPicture-v0 draws no pictures: its render modes must have rgb_array; it has ansi"
    )
    assert refusal("Pendulum-v1", make={"mass": 3}) == (
        "data.env.options.make: PendulumEnv.__init__() got an unexpected keyword argument 'mass'"
    )
    assert refusal("swing", ids={"swing": 1}) == (
        "data.env.options.ids must have an id for swing, such as Pendulum-v1, not 1"
    )
    assert refusal("Pendulum-v1", make="mass") == "data.env.options.make must be a mapping or null, not 'mass'"
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    assert refusal("gymnasium_robotics:FetchReach-v4").endswith(": pip install 'furl_lightning[fetch]'")
    with pytest.raises(BadInput) as refused:
        Fetch("reach")
    assert str(refused.value) == "Fetch needs gymnasium-robotics: pip install 'furl_lightning[fetch]'"
    with pytest.raises(BadInput, match="unknown task 'rech'; the nearest is 'reach'"):
        Fetch("rech")


def test_a_camera_needs_a_model() -> None:
    environment = point()
    environment.picture = Picture(64, "fast", "top")
    environment.reset(0)
    with pytest.raises(BadInput, match=f"data.env.camera must be null: {NAME} has no MuJoCo model"):
        environment.frame()


@pytest.mark.parametrize("task", ["reach", "push", "pick-and-place"])
def test_experts_succeed(task: str) -> None:
    """At the last of 50 steps, from observations as float32; the reward is the distance to the goal, negative."""
    environment = make_environment("Fetch", {}, task)
    for seed in range(5):
        observation = environment.reset(seed).astype(np.float32)
        success, reward = False, -1.0
        for _ in range(50):
            given, reward, success = environment.step(environment.expert(observation))
            observation = given.astype(np.float32)
        assert success and -0.05 < reward < 0


def test_goal_images() -> None:
    """Slide has no expert: a picture of the puck at the goal, and the episode goes on from where it was."""
    environment = Fetch("slide")
    environment.picture = Picture(64, "fast")
    assert environment.expert is None
    first = play(environment, 0)
    environment.reset(0)
    before = environment.frame()
    image = environment.goal_image()
    assert image is not None and not np.array_equal(image, before) and np.array_equal(environment.frame(), before)
    environment.reset(0)
    environment.goal_image()
    action = np.random.default_rng(0).uniform(-1, 1, 4).astype(np.float32)
    assert same(list(environment.step(action)), first[1:4])
    environment.close()
    assert Fetch("push").goal_image() is None


def test_simulators_by_name() -> None:
    settings = SimulatorSettings("random", "light", size=64, simulator="Fetch", observation_dim=31, episode_steps=50)
    for task, dim in [("reach", 16), ("push", 31)]:
        simulator = make_simulator(task, 0, settings)
        observation = simulator.reset()
        assert observation.shape == (31,) and not observation[dim:].any() and observation[dim - 1] != 0
        action = simulator.expert(observation)
        assert action is not None and simulator.step(action).truncated is False
        assert simulator.frame().shape == (64, 64, 3)
        simulator.close()


def test_a_fetch_run_resumes_bit_for_bit(run: Run, tmp_path: Path) -> None:
    """From the middle of an episode; two tasks whose observations differ in size, drawn, with random goals."""
    settings = {
        "data__env__simulator": "Fetch", "data__env__goal": "random", "data__tasks": "[reach, push]",
        "data__replay__size": 60, "data__memory__size": 50, "data__checkpoints__every": 20,
        "data__checkpoints__keep": 9,
    }  # fmt: skip
    straight = run("straight", **settings)
    checkpoint = tmp_path / "straight/checkpoints/step-000000080.ckpt"
    resumed = run("resumed", "--ckpt_path", str(checkpoint), **settings, data__collection__num_workers=1)
    assert_same(straight, resumed, ignore=IGNORE)
    assert_same(rings(straight, tmp_path / "straight"), rings(resumed, tmp_path / "resumed"))
