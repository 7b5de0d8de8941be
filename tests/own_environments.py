"""Environments of a user's own, by the contract: a dot that is to come to a ring; and some with a fault each."""

from __future__ import annotations

from typing import Any

import numpy as np

from furl_lightning.envs.environment import Environment


class Dot(Environment):
    """``dot`` observes where dot and ring are; ``blind`` only how far the ring is."""

    tasks = {"dot": "move the dot to the ring", "blind": "move the dot to the ring, blindfolded"}
    action_dim, episode_steps = 2, 50

    def __init__(self, task: str, speed: float = 0.2) -> None:
        self.speed, self.blind = speed, task == "blind"
        self.observation_dim = 2 if self.blind else 4

    def reset(self, seed: int) -> np.ndarray:
        self.place, self.ring = np.random.default_rng(seed).uniform(-1, 1, (2, 2))
        return self._observation()

    def _observation(self) -> np.ndarray:
        way = self.ring - self.place
        return way if self.blind else np.concatenate([self.place, way])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.place = np.clip(self.place + self.speed * action, -1, 1)
        distance = float(np.linalg.norm(self.ring - self.place))
        return self._observation(), 1 - distance, distance < 0.4

    def frame(self) -> np.ndarray:
        side = self.picture.size
        picture = np.full((side, side + 20, 3), 255, np.uint8)
        for place, colour in ((self.ring, (255, 0, 0)), (self.place, (0, 0, 0))):
            x, y = ((side - 12) * (place + 1) / 2).astype(int)
            picture[y : y + 12, x + 10 : x + 22] = colour
        return picture

    def expert(self, observation: np.ndarray) -> np.ndarray:
        return np.clip(5 * observation[-2:], -1, 1)


class Anything(Dot):
    """Any name is a task of it, and none has a sentence."""

    tasks = {}


class Chance(Dot):
    """Its steps do not follow from the seed."""

    expert: Any = None

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        return super().step(action + 0.1 * np.random.standard_normal(2))


class NoSuccess(Dot):
    def step(self, action: np.ndarray) -> Any:
        return super().step(action)[:2]


class SuccessInWords(Dot):
    def step(self, action: np.ndarray) -> Any:
        return *super().step(action)[:2], "yes"


class NoReward(Dot):
    def step(self, action: np.ndarray) -> Any:
        observation, _, success = super().step(action)
        return observation, None, success


class Growing(Dot):
    def step(self, action: np.ndarray) -> Any:
        observation, reward, success = super().step(action)
        return np.append(observation, 0.0), reward, success


class NotFinite(Dot):
    def step(self, action: np.ndarray) -> Any:
        return super().step(action)[0] / 0.0, 0.0, False


class ResetsLikeGymnasium(Dot):
    def reset(self, seed: int) -> Any:
        return super().reset(seed), {}


class DrawsNothing(Dot):
    def frame(self) -> Any:
        return None


class DrawsGrey(Dot):
    def frame(self) -> Any:
        return super().frame()[..., 0]


class GoalInWords(Dot):
    def goal_image(self) -> Any:
        return "at the ring"


class LongExpert(Dot):
    def expert(self, observation: np.ndarray) -> np.ndarray:
        return np.zeros(3)


class Sizeless(Dot):
    def __init__(self, task: str) -> None:
        super().__init__(task)
        del self.observation_dim


class Lacking(Environment):
    def reset(self, seed: int) -> np.ndarray:
        return np.zeros(1)


class Broken(Dot):
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        raise ZeroDivisionError("a bug of the user's")


class BreaksLater(Dot):
    """After it has been looked at: in the third episode of a process."""

    episodes = 0

    def reset(self, seed: int) -> np.ndarray:
        self.episodes += 1
        if self.episodes > 3:
            raise ZeroDivisionError("a bug of the user's, later")
        return super().reset(seed)
