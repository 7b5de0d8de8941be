"""What a probe says in words: each sentence where it belongs, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from furl_lightning.analysis.probe import DISTANCE, ScoredEpisode, ScoredEpisodes
from furl_lightning.analysis.remarks import (
    GRAINS,
    NONSENSE,
    OTHERS,
    Nonsense,
    no_better,
    no_order,
    noise_images,
    remarks,
    unordered,
)
from furl_lightning.envs.episodes import Manner
from furl_lightning.tasks import TASK_SETS
from furl_lightning.vlm import Embedded

from .made_up_episode import scored

NAN = float("nan")


def by_luck(*numbers: float) -> dict[str, float]:
    return {f"number {place}": number for place, number in enumerate(numbers)}


def test_no_better_from_a_quarter_on() -> None:
    """Three of sixteen may do as well by luck; four are too many."""
    numbers = [0.2, 0.3, 0.9, *[-0.1] * 12]
    assert no_better("a reward", 0.2, "nonsense", by_luck(*numbers, -0.2)) == []
    assert no_better("a reward", 0.2, "nonsense", by_luck(*numbers, 0.2)) == [
        "a reward (0.20) is no better than nonsense: 4 of 16 do as well, number 2 has 0.90"
    ]


def test_no_better_among_what_has_an_order() -> None:
    """Constant ones are not counted, and of a constant reward there is something else to say."""
    assert no_better("a reward", 0.2, "nonsense", by_luck(0.5, 0.1, 0.1, 0.1, NAN)) == [
        "a reward (0.20) is no better than nonsense: 1 of 4 do as well, number 0 has 0.50"
    ]
    assert no_better("a reward", NAN, "nonsense", by_luck(0.5, -0.5)) == []
    assert no_better("a reward", 0.2, "nonsense", by_luck(NAN, NAN)) == []


@pytest.mark.parametrize("value", [0.0, -0.3])
def test_no_better_than_none(value: float) -> None:
    """Better than all nonsense, and still not above what a constant reward has."""
    assert no_better("a reward", value, "nonsense", by_luck(*[-0.5] * 16)) == [
        f"a reward ({value:.2f}) is no better than none: it does not rise with Meta-World's dense reward"
    ]
    assert no_better("a reward", 0.01, "nonsense", by_luck(*[-0.5] * 16)) == []


def test_no_order() -> None:
    """It says how many episodes are left out, and what is constant in the frames that count."""
    good, flat = scored([1, 2, 3], [0, 0, 0]), scored([1, 1, 1], [0, 0, 0])
    still = scored([1, 2, 3], [0, 1, 1], [5, 5, 8])  # constant only up to its first success
    assert no_order("a reward", [good, still], "random") == no_order("a reward", [], "random") == []
    for episodes, said in (
        ([good, flat], "1 of 2, in which it is constant"),
        ([flat, flat], "2 of 2, in which it is constant"),
        ([good, still], "1 of 2, in which Meta-World's dense reward is constant"),
        ([flat, still], "2 of 2, in which it or Meta-World's dense reward is constant"),
    ):
        assert no_order("a reward", episodes, "noisy") == [f"a reward is measured without {said}"]


def way(*distances: float) -> ScoredEpisode:
    """An expert's episode at these distances to the goal image, the last at its first success."""
    return scored([-distance for distance in distances], [0] * (len(distances) - 1) + [1])


def test_unordered() -> None:
    """More than a third of the way, or of the frames, and not a third."""
    even = way(6, 5, 4, 3, 2, 1, 0)
    assert unordered("reach", [even], 2.0) == []  # a third of the way and two frames of six
    assert unordered("reach", [even], 2.5) == [
        "reach: l2_margin 2.5 is 42% of the way from the first frame to the goal image (6): "
        "2 of the 6 frames before an expert's first success are not told from the goal"
    ]
    assert unordered("reach", [way(6, 2, 2, 1, 0)], 2.0) == [
        "reach: l2_margin 2 is 33% of the way from the first frame to the goal image (6): "
        "3 of the 4 frames before an expert's first success are not told from the goal"
    ]
    assert unordered("reach", [even, way(8, 0)], 7.0) == [  # the mean way
        "reach: l2_margin 7 is no less than the whole way from the first frame to the goal image (7): "
        "6 of the 7 frames before an expert's first success are not told from the goal"
    ]


def test_experts_that_fail_have_no_way() -> None:
    failing, at_once = scored([-1, -1], [0, 0]), scored([-1, -1], [1, 1])
    assert unordered("reach", [failing, at_once], 5.0) == unordered("reach", [], 5.0) == []


# A plane: frames go along its first axis as the dense reward rises, from 1 to 4, beside a second one that they share.
AXIS = torch.tensor([1.0, 0.0])
FRAMES = torch.tensor([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0], [4.0, 2.0]])


def nonsense(sentences: Tensor, images: Tensor) -> Nonsense:
    """Four of each, all alike."""
    return Nonsense({f'"{n}"': sentences for n in range(4)}, {f"noise {n}": images for n in range(4)})


def test_remarks_on_one_task() -> None:
    """Nothing on a good reward and distance; on bad ones a sentence on each kind of reward and of episode."""
    manners: list[Manner] = ["expert", "noisy", "random"]
    episode = scored([0.0] * 4, [0, 0, 0, 1], embedding=FRAMES)

    def kinds(text: Tensor, goal: Tensor) -> dict[str, ScoredEpisodes]:
        return {
            "zero-shot": {manner: [episode.likeness(text)] for manner in manners},
            DISTANCE: {manner: [episode.closeness(goal)] for manner in manners},
        }

    far, near = FRAMES[3], FRAMES[0]
    against = nonsense(-AXIS, near)  # they fall as the dense reward rises
    assert remarks("reach", kinds(AXIS, far), against, 0.9) == []
    sentence, image = "the cosine with a nonsense sentence", "the distance to an image of something else"
    zero_shot = [
        f"reach, {manner} episodes: the zero-shot reward (-1.00) is no better than {sentence}: "
        '4 of 4 do as well, "0" has -1.00'
        for manner in ("noisy", "random")
    ]
    distance = [
        f"reach, {manner} episodes: the distance to the goal image (-1.00) is no better than {image}: "
        "4 of 4 do as well, noise 0 has -1.00"
        for manner in ("noisy", "random")
    ]
    assert remarks("reach", kinds(-AXIS, far), against, 0.9) == zero_shot
    assert remarks("reach", kinds(AXIS, near), against, None) == distance
    (margin,) = remarks("reach", kinds(AXIS, far), against, 1.5)
    assert margin.startswith("reach: l2_margin 1.5 is 50% of the way") and "1 of the 3 frames" in margin
    assert remarks("reach", kinds(AXIS, far), against, None) == []  # nothing is learned from the goal image
    constant: ScoredEpisodes = {"noisy": [replace(episode, reward=np.ones(4))]}
    flat = {"zero-shot": constant, DISTANCE: constant}
    assert remarks("reach", flat, against, 0.9) == [
        f"reach, noisy episodes: {subject} is measured without 1 of 1, in which it is constant"
        for subject in ("the zero-shot reward", "the distance to the goal image")
    ]


def test_a_tasks_goal_image_is_no_nonsense_to_itself() -> None:
    """Of the tasks whose goal images stand for any other's."""
    episodes: ScoredEpisodes = {"noisy": [scored([0.0] * 4, [0, 0, 0, 1], embedding=FRAMES).closeness(FRAMES[3])]}
    others = Nonsense({}, {"the goal image of hammer": FRAMES[3], "noise": FRAMES[0]})
    assert remarks("hammer", {DISTANCE: episodes}, others, None) == []
    (line,) = remarks("reach", {DISTANCE: episodes}, others, None)
    assert line.endswith("1 of 2 do as well, the goal image of hammer has 1.00")


def test_nonsense_is_sixteen_of_each() -> None:
    """Always the same noise, in squares; sentences and images as the VLM has them; none of MT10's tasks."""
    images = noise_images(96)
    again = noise_images(96)
    assert all(np.array_equal(images[name], again[name]) for name in images) and len(images) == 2 * len(GRAINS)
    assert {image.shape for image in images.values()} == {(96, 96, 3)}
    for name, image in images.items():
        side = int(name.split()[2])
        assert len(np.unique(image.reshape(-1, 3), axis=0)) == pytest.approx(side**2, rel=0.01), name
        assert (image[: 96 // side, : 96 // side] == image[0, 0]).all(), name
    assert not {agent.task for agent in OTHERS} & set(TASK_SETS["mt10"])
    vlm = Embedded()
    goals = {agent: np.full((96, 96, 3), place, np.uint8) for place, agent in enumerate(OTHERS)}
    made = Nonsense.embed(vlm, goals, 96)
    assert len(made.sentences) == len(NONSENSE) == len(made.images) == 16
    expected = vlm.encode_images(torch.from_numpy(goals[OTHERS[2]][None]))[0]
    assert made.images[f"the goal image of {OTHERS[2].task}"] == pytest.approx(expected, abs=1e-4)
    assert len(Nonsense.embed(vlm, {}, 96).images) == 8  # where their experts fail
