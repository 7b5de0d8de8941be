"""Random looks of a scene: what the task's objects look like and where they stand, in the picture alone.

Whoever knows only the objects of forty tasks does not see the forty-first's. A look repaints and reshapes the
geoms of a task, or puts made-up things in their place, turns and moves them, and adds others that do not
matter. The physics never knows of it: only what is handed to OpenGL changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

SURROUNDINGS = ("world", "tablelink", "RetainingWall", "base", "mocap")
"""Root bodies that are in every task: the room, the table, the robot."""
SHAPES = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_ELLIPSOID)
OUT_OF_SIGHT = (0.0, 0.0, -5.0)
PLAIN, OWN, REPAINTED = 0.25, 0.4, 0.65
"""Share of looks that are the task's own; that are this, perhaps moved; or that, perhaps repainted and reshaped. In the
rest the objects are made up."""


@dataclass
class Part:
    """A primitive of a made-up thing."""

    shape: mujoco.mjtGeom
    size: np.ndarray  # [3], half sizes, metres
    place: np.ndarray  # [3], of its centre in the thing's frame, metres
    turn: np.ndarray  # [3, 3]
    colour: np.ndarray  # [3]


class Look:
    """The look of one placement.

    Args:
        model: the task's.
        thing: what the gripper has to get at, at the episode's beginning, [3], metres.
        random: draws the look.
    """

    def __init__(self, model: mujoco.MjModel, thing: np.ndarray, random: np.random.Generator) -> None:
        kind = random.random()
        self._plain, self._made_up = kind < PLAIN, kind >= REPAINTED
        root = [model.body(model.body_rootid[body]).name for body in range(model.nbody)]
        self._geoms = {g for g in range(model.ngeom) if root[model.geom_bodyid[g]] not in SURROUNDINGS}
        self._sites = {s for s in range(model.nsite) if root[model.site_bodyid[s]] not in SURROUNDINGS}
        self._goals = {s for s in range(model.nsite) if root[model.site_bodyid[s]] == "world"}
        self._pivot = np.array([thing[0], thing[1], 0.0])
        self._turn, self._shift = np.eye(3), np.zeros(3)
        self._colours: dict[int, np.ndarray] = {}
        self._shapes: dict[int, Part] = {}
        self._scales: dict[int, np.ndarray] = {}
        self._moving: list[Part] = []
        self._standing: list[Part] = []
        self._goal_colour: np.ndarray | None = None
        self._goal_hidden = False
        if self._plain:
            return
        self._goal_hidden = random.random() < 0.15
        if random.random() < 0.5:
            self._goal_colour = random.uniform(0, 1, 3)
        if random.random() < 0.5:
            self._turn = turned(random.uniform(-1.2, 1.2) if random.random() < 0.5 else random.uniform(-0.3, 0.3))
            self._shift = np.array([random.uniform(-0.12, 0.12), random.uniform(-0.12, 0.1), 0.0])
        if self._made_up:
            self._make_up(random)
        elif kind >= OWN:
            self._repaint(model, random)
        if random.random() < 0.2:  # a thing that does not matter
            size = random.uniform(0.01, 0.05, 3)
            place = np.array([random.uniform(-0.4, 0.4), random.uniform(0.45, 0.95), size[2]])
            self._standing.append(_part(random, size, place))

    def _repaint(self, model: mujoco.MjModel, random: np.random.Generator) -> None:
        of_body = {int(model.geom_bodyid[g]): random.uniform(0, 1, 3) for g in sorted(self._geoms)}
        for geom in sorted(self._geoms):
            if random.random() < 0.8:
                alike = random.random() < 0.6
                self._colours[geom] = of_body[int(model.geom_bodyid[geom])] if alike else random.uniform(0, 1, 3)
            self._scales[geom] = random.uniform(0.75, 1.3, 3)
            half = model.geom_aabb[geom, 3:]
            if half.max() < 0.15 and random.random() < 0.3:
                size = np.maximum(half * random.uniform(0.7, 1.3, 3), 0.003)
                self._shapes[geom] = _part(random, size, model.geom_aabb[geom, :3].copy())

    def _make_up(self, random: np.random.Generator) -> None:
        base, colour = random.uniform(0.012, 0.06, 3), random.uniform(0, 1, 3)
        for number in range(int(random.integers(1, 4))):
            place = random.normal(0, 0.025, 3) * (number > 0)
            place[2] = abs(place[2])
            part = _part(random, base * random.uniform(0.3, 1.2, 3), place)
            if random.random() < 0.5:
                part.colour = colour
            self._moving.append(part)
        if random.random() < 0.4:  # a panel that moves with it, as a door or a drawer does
            size = np.array([random.uniform(0.03, 0.15), 0.01, random.uniform(0.02, 0.1)])
            facing = turned(random.choice([0.0, np.pi / 2]))
            place = facing @ np.array([0.0, random.uniform(0.02, 0.08), 0.0])
            self._moving.append(Part(SHAPES[0], size, place, facing, random.uniform(0, 1, 3)))
        for _ in range(int(random.integers(0, 4))):  # what it is part of, and stays
            size = random.uniform(0.01, 0.15, 3)
            place = self._pivot + np.array([random.normal(0, 0.08), random.uniform(-0.05, 0.2), size[2]])
            self._standing.append(_part(random, size, place))
        if random.random() < 0.5:  # a handle is higher than what lies on a table
            self._shift[2] = random.uniform(0.0, 0.2)

    @property
    def as_simulated(self) -> bool:
        """Whether the task's objects are in the picture, and where the simulator has them."""
        return not self._made_up and not self._shift.any()

    def moved(self, place: np.ndarray) -> np.ndarray:
        """Where the look has what stands at a place [3] of the task's scene."""
        return self._turn @ (np.asarray(place) - self._pivot) + self._pivot + self._shift

    def put_on(self, scene: mujoco.MjvScene, thing: np.ndarray) -> None:
        """Change a scene that was just updated.

        Args:
            scene: of the model that the look was made for.
            thing: the present place of the object in the task's scene, [3].
        """
        if self._plain:
            return
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.objid in self._geoms:
                if self._made_up:
                    geom.pos[:] = OUT_OF_SIGHT
                else:
                    self._change(geom)
            elif geom.objtype == mujoco.mjtObj.mjOBJ_SITE and geom.objid in self._sites | self._goals:
                goal = geom.objid in self._goals
                if (goal and self._goal_hidden) or (self._made_up and not goal):
                    geom.pos[:] = OUT_OF_SIGHT
                    continue
                geom.pos[:] = self.moved(geom.pos)
                if self._goal_colour is not None:
                    geom.rgba[:3] = self._goal_colour
        here = self.moved(thing)
        for part in self._moving:
            _add(scene, part, here)
        for part in self._standing:
            _add(scene, part, np.zeros(3))

    def _change(self, geom: mujoco.MjvGeom) -> None:
        number = geom.objid
        if geom.type != mujoco.mjtGeom.mjGEOM_MESH:
            geom.size[:] = geom.size * self._scales.get(number, 1.0)
        elif number in self._shapes:
            part = self._shapes[number]
            geom.type, geom.dataid, geom.matid = part.shape, -1, -1
            geom.size[:], geom.rgba[:3] = part.size, part.colour
            geom.pos[:] = geom.pos + geom.mat @ part.place
        if number in self._colours:
            geom.matid = -1
            geom.rgba[:3] = self._colours[number]
        geom.pos[:] = self.moved(geom.pos)
        geom.mat[:] = self._turn @ geom.mat


def turned(angle: float) -> np.ndarray:
    """A turn about the vertical axis, [3, 3]."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _part(random: np.random.Generator, size: np.ndarray, place: np.ndarray) -> Part:
    shape = SHAPES[int(random.integers(len(SHAPES)))]
    return Part(shape, size, place, turned(random.uniform(0, 2 * np.pi)), random.uniform(0, 1, 3))


def _add(scene: mujoco.MjvScene, part: Part, origin: np.ndarray) -> None:
    colour = np.append(part.colour, 1).astype(np.float32)
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(geom, part.shape, part.size, origin + part.place, part.turn.reshape(-1), colour)
    scene.ngeom += 1
