"""furl-probe: its figures against independent ones and against the embedded model's card."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from furl_lightning.analysis.figures import MANNER_COLOURS, draw_rewards
from furl_lightning.analysis.probe import MEASURES, ScoredEpisode, above, measure, spearman, wrongly_ordered
from furl_lightning.analysis.tables import measures_table
from furl_lightning.commands.fit import fit
from furl_lightning.commands.probe import MANNERS, Subject, probe, write
from furl_lightning.envs.episodes import Episode, Manner, record
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import INSTRUCTIONS, Agent
from furl_lightning.training.trained import load
from furl_lightning.vlm import CLIP, Embedded

from .conftest import Run
from .made_up_episode import scored


def rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(newline="") as file:
        return {(row["reward"], row["task"]): row for row in csv.DictReader(file)}


def test_measures_against_their_definitions() -> None:
    """Ranks by hand, all pairs, and Kendall's tau; without and with ties."""
    random = np.random.default_rng(0)
    reward, time = random.random(40), np.arange(40)
    ranks = [float((reward < value).sum()) for value in reward]
    assert spearman(reward, time) == pytest.approx(np.corrcoef(ranks, time)[0, 1])
    assert spearman(np.array([1.0, 1.0, 2.0]), np.arange(3)) == pytest.approx(
        np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1]
    )
    assert wrongly_ordered(reward) == pytest.approx((1 - stats.kendalltau(reward, time).statistic) / 2)
    assert wrongly_ordered(np.array([1.0, 1.0, 0.0])) == pytest.approx(2 / 3)
    success, failure = random.random(12).round(1), random.random(30).round(1)
    pairs = (success[:, None] > failure) + 0.5 * (success[:, None] == failure)
    assert above(success, failure) == pytest.approx(pairs.mean())


@pytest.mark.filterwarnings("error")
def test_a_constant_reward_has_no_correlation() -> None:
    assert np.isnan(spearman(np.ones(5), np.arange(5)))
    assert above(np.ones(3), np.ones(4)) == 0.5


EXPERTS = [
    scored([0.1, 0.3, 0.2, 0.5, 0.9, 0.0], [0, 0, 0, 1, 1, 0]),
    scored([0.4, 0.1, 0.0, 0.0], [0, 0, 0, 0]),
]
OTHERS = [
    scored([0.2, 0.6, 0.1], [0, 1, 0], [1.0, 0.0, 2.0]),
    scored([0.3, 0.55, 0.1, 0.05], [0, 0, 0, 0]),
]


def test_measures_by_hand() -> None:
    """Two experts, one of which fails; a perturbed episode with success, and a failed one."""
    measures = measure({"expert": EXPERTS, "noisy": OTHERS[:1], "random": OTHERS[1:]})
    assert list(measures) == list(MEASURES)
    tied = np.corrcoef([4, 3, 1.5, 1.5], [1, 2, 3, 4])[0, 1]
    assert measures == pytest.approx(
        {
            "correlation": (0.8 + tied) / 2,  # of the first expert up to its success: ranks 1, 3, 2, 4
            "perturbed": (-1.0 - 0.8) / 2,
            "noisy": -1.0,  # up to its success
            "random": -0.8,
            "wrong_pairs": (1 / 6 + 5 / 6) / 2,
            "maximum": 8 / 6,  # after its success; the expert that fails has none
            "gap": (0.5 + 0.9 + 0.6) / 3 - (0.3 + 0.55 + 0.1 + 0.05) / 4,
            "above": 11 / 12,  # 0.5 is below 0.55
            "way": 9.0,
        }
    )


def test_measures_that_do_not_exist() -> None:
    """Without success, or without failure, there is nothing to tell apart."""
    failed = measure({"expert": EXPERTS[1:], "random": OTHERS[1:]})
    won = measure({"expert": EXPERTS[:1], "noisy": OTHERS[:1]})
    assert {name for name, value in failed.items() if np.isnan(value)} == {"noisy", "maximum", "gap", "above", "way"}
    assert {name for name, value in won.items() if np.isnan(value)} == {"random", "gap", "above"}
    table = measures_table({"reach": failed, "push": won})
    assert table.rows[0][6:] == ["-"] * 4 and table.rows[1][6:] == ["1.33", "-", "-", "9.00"]
    assert table.rows[2][0] == "all" and table.rows[2][6:] == ["1.33", "-", "-", "9.00"]


def test_rewards_are_drawn_as_they_are() -> None:
    """A panel for each kind of reward, a line for each episode, a star at each first success; frames above."""
    episodes: list[tuple[Manner, ScoredEpisode]] = [("expert", EXPERTS[0]), ("noisy", OTHERS[0]), ("random", OTHERS[1])]
    aligned = [(manner, replace(episode, reward=-episode.reward)) for manner, episode in episodes]
    measures = {
        "zero-shot": measure({"expert": EXPERTS[:1], "noisy": OTHERS[:1], "random": OTHERS[1:]}),
        "aligned": {"correlation": 0.25, "wrong_pairs": 0.5, "gap": -0.75},
    }
    figure = draw_rewards("reach", {"zero-shot": episodes, "aligned": aligned}, measures)
    frames, panels = figure.axes[:-2], figure.axes[-2:]
    assert [axis.get_title() for axis in frames[::5]] == ["step 0: +0.10", "step 6: +0.50"]
    assert [axis.get_title() for axis in panels] == [
        "zero-shot: rank correlation 0.80, wrong pairs 17%, gap +0.42",
        "aligned: rank correlation 0.25, wrong pairs 50%, gap -0.75",
    ]
    for axis, sign in zip(panels, (1, -1), strict=True):
        lines: dict[Any, Any] = {line.get_color(): line for line in axis.get_lines() if line.get_marker() == "None"}
        stars: dict[Any, Any] = {line.get_color(): line for line in axis.get_lines() if line.get_marker() == "*"}
        assert set(stars) == {MANNER_COLOURS["expert"], MANNER_COLOURS["noisy"]}
        for manner, episode in episodes:
            line = lines[MANNER_COLOURS[manner]]
            assert line.get_xdata() == pytest.approx(episode.episode.step)
            assert line.get_ydata() == pytest.approx(sign * episode.reward)
        (x,), (y,) = stars[MANNER_COLOURS["noisy"]].get_data()
        assert (x, y) == pytest.approx((2, sign * 0.6))


def test_all_but_the_experts_are_others(tmp_path: Path) -> None:
    """Made-up episodes, two placements in every manner, through a real VLM: the tables have all of them.

    The distance has those of the placement that has a goal image, and words say why.
    """
    random = np.random.default_rng(0)
    vlm, agents = Embedded(), [Agent("reach", 0), Agent("reach", 1)]
    episodes: dict[tuple[Agent, Manner], Episode] = {}
    for agent in agents:
        for number, manner in enumerate(MANNERS):
            episode = scored([0.0] * 4, [0, 0, number < 3, 0], random.random(4).tolist()).episode
            episode.frames = random.integers(0, 256, (4, 64, 64, 3), np.uint8)
            episodes[agent, manner] = episode
    goals = {agents[1]: random.integers(0, 256, (64, 64, 3), np.uint8)}
    subject = Subject(vlm, agents, {"reach": INSTRUCTIONS["reach"]}, SimulatorSettings(size=64), None, 0.25)
    (tmp_path / "out").mkdir()
    text = write(tmp_path / "out", subject, episodes, goals)
    instruction = vlm.encode_texts([INSTRUCTIONS["reach"]])
    goal = vlm.encode_images(torch.from_numpy(goals[agents[1]][None]))
    zero_shot: dict[Manner, list[ScoredEpisode]] = {manner: [] for manner in MANNERS}
    distance: dict[Manner, list[ScoredEpisode]] = {manner: [] for manner in MANNERS}
    for (agent, manner), episode in episodes.items():
        scored_episode = ScoredEpisode.zero_shot(vlm, "reach", episode, instruction)
        zero_shot[manner].append(scored_episode)
        if agent in goals:
            closeness = -torch.cdist(scored_episode.embedding, goal)[:, 0].numpy()
            distance[manner].append(replace(scored_episode, reward=closeness))
    table = rows(tmp_path / "out/probe.csv")
    assert list(table) == [("zero-shot", "reach"), ("distance", "reach")]
    for kind, of_kind in (("zero-shot", zero_shot), ("distance", distance)):
        expected = measure(of_kind)
        assert {name: float(table[kind, "reach"][name]) for name in MEASURES} == pytest.approx(expected, abs=1e-3)
        line = rf"^reach +{expected['correlation']:.2f} +{expected['perturbed']:.2f} +{expected['noisy']:.2f} "
        assert re.search(line, text, re.MULTILINE)
    words = "reach, seed 0: the scripted expert fails: no goal image, and no distance to it"
    assert words in text.splitlines() and words in (tmp_path / "out/index.html").read_text()
    assert "reach, seed 1" not in text


def test_probe_equals_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The package's model of before on a task that it has backwards: the correlation that its card says.

    Beside it the distance to the goal image, and in words what the reward is worth.
    """
    card = (Embedded.FOLDER.with_name("embedded_clip") / "README.md").read_text()
    figure = re.search(r"^\| drawer-open \|[^|]*\| (-?[\d.]+) \|", card, re.MULTILINE)
    out = tmp_path / "out"
    assert figure is not None
    assert probe(["--tasks", "drawer-open", "--vlm", "EmbeddedCLIP", "--l2_margin", "0.7", "--out", str(out)]) == 0
    table, text = rows(out / "probe.csv"), capsys.readouterr().out
    assert f"{float(table['zero-shot', 'drawer-open']['correlation']):.2f}" == figure.group(1)
    distance = table["distance", "drawer-open"]
    title, head, _, line, *_ = text[text.index("distance to the goal image, as a reward") :].splitlines()
    assert title.endswith("the closer the more") and head.split() == ["task", *MEASURES]
    assert line.split() == ["drawer-open", *(f"{float(distance[name]):.2f}" for name in MEASURES)]
    page = (out / "index.html").read_text()
    assert "distance to the goal image, as a reward" in page and "In words" in page
    said = [words for words in text.splitlines() if words.startswith("drawer-open") and words != line and ":" in words]
    zero_shot = (
        f"drawer-open, noisy episodes: the zero-shot reward ({float(table['zero-shot', 'drawer-open']['noisy']):.2f})"
    )
    assert sum(words.startswith(f"{zero_shot} is no better than the cosine with a nonsense") for words in said) == 1
    assert sum(words.startswith("drawer-open: l2_margin 0.7 is ") for words in said) == 1
    assert page.count("<li>drawer-open") == len(said)


def test_with_a_checkpoint(run: Run, tmp_path: Path, tiny_clip: Path) -> None:
    """Before and after alignment, on the run's own placements, sentences and VLM."""
    run("aligned", data__env_steps=20, data__collection__start_steps=10, data__prompts="{drawer-close: shut it}")
    checkpoint = tmp_path / "aligned/checkpoints/last.ckpt"
    out = tmp_path / "out"
    assert probe(["--ckpt_path", str(checkpoint), "--processes", "1", "--out", str(out)]) == 0
    table = rows(out / "probe.csv")
    assert set(table) == {(kind, "drawer-close") for kind in ("zero-shot", "aligned", "distance")}
    vlm = CLIP(str(tiny_clip))
    episode = record("drawer-close", 0, SimulatorSettings("fixed", "fast"), "expert", 2)
    expert = ScoredEpisode.zero_shot(vlm, "drawer-close", episode, vlm.encode_texts(["shut it"]))
    assert float(table["zero-shot", "drawer-close"]["correlation"]) == pytest.approx(expert.correlation(), abs=1e-6)
    first, success = expert.embedding[[0, expert.success]]
    assert float(table["aligned", "drawer-close"]["way"]) == pytest.approx(float((first - success).norm()), abs=1e-5)
    trained = load(checkpoint)
    aligned = replace(expert, reward=trained.module.frame_reward(0, torch.from_numpy(episode.frames)).numpy())
    assert float(table["aligned", "drawer-close"]["correlation"]) == pytest.approx(aligned.correlation(), abs=1e-6)
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and page.count("src=") == page.count('src="data:')
    assert "href" not in page
    with Image.open(out / "drawer-close.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_first_success_is_always_drawn() -> None:
    """Whether its step is due or not."""
    vlm = Embedded()
    episode = record("drawer-close", 0, SimulatorSettings("fixed", "fast"), "expert", 4)
    scored = ScoredEpisode.zero_shot(vlm, "drawer-close", episode, vlm.encode_texts([INSTRUCTIONS["drawer-close"]]))
    assert scored.success is not None and episode.success[scored.success]
    assert not episode.success[: scored.success].any()
    assert episode.step[scored.success] == 78 and np.isfinite(episode.action).all()


LONG = "push " * 100


@pytest.mark.parametrize(
    ("command", "option", "value", "named"),
    [
        (probe, "prompts", "{reach: %s}", "prompts.reach"),
        (probe, "prompts", "{reach: [go, %s]}", "prompts.reach"),
        (fit, "data.prompts", "{reach: %s}", "data.prompts.reach"),
        (fit, "data.prompts", "{reach: [go, %s]}", "data.prompts.reach"),
        (fit, "model.reward.baseline_prompt", "%s", "model.reward.baseline_prompt"),
    ],
)
def test_one_check_of_sentences_for_every_command(
    command: Callable[[list[str]], int],
    option: str,
    value: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is played or written; the message names the option."""
    monkeypatch.chdir(tmp_path)
    argv = ["--tasks", "reach"] if command is probe else ["--data.tasks", "[reach]"]
    argv += ["--model.reward.source", "goal_baseline"] if "baseline" in option else []
    for sentence, problem in (
        (LONG, "cannot be read: the text 'push push push push push push push push ...' is 102 tokens long; 'embedded'"),
        ("...", "has a sentence without a word, '...'; write what the robot is to do"),
    ):
        assert command([*argv, f"--{option}", value % sentence]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"furl-{command.__name__}: {named} {problem}")
    assert not list(tmp_path.iterdir())


def test_a_prompt_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser makes one text of all that is given, which would be read as the instruction."""
    for given in ("{reach: 3}", "{reach: null}", "{reach: [go, [come]]}"):
        assert probe(["--tasks", "reach", "--prompts", given, "--out", str(tmp_path / "out")]) == 2
        assert f"prompts.reach has '{given}', which is no sentence" in capsys.readouterr().err


def test_one_line_for_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and nothing is written."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    out = ["--out", str(tmp_path / "out")]
    for argv, message in (
        (["--tasks", "drawer-clos", *out], "unknown task 'drawer-clos'; the nearest is 'drawer-close'"),
        (["--vlm", "CLIPP", *out], "unknown VLM 'CLIPP'; the nearest is 'CLIP'"),
        (["--vlm", "CLIP", "--vlm.path", "/nowhere", *out], "there is no folder '/nowhere'"),
        (["--tasks", "reach", "--prompts", "{push: go}", *out], "prompts names push, not among the tasks: reach"),
        (["--tasks", "reach", "--prompts", "go", *out], "prompts must be sentences by task, {reach: go}, or a list"),
        (["--seeds", "[1, 1]", *out], "seeds must be different whole numbers"),
        (["--goal", "fixd", *out], "fixd"),
        (["--ckpt_path", "/nowhere/last.ckpt", *out], "no checkpoint at /nowhere/last.ckpt"),
        (["--ckpt_path", "x", "--seeds", "[0]", *out], "--seeds cannot be given with --ckpt_path"),
        (["--processes", "0", *out], "processes must be at least 1, not 0"),
        (["--taks", "reach"], "unknown option 'taks'; the nearest is 'tasks'"),
        (["--out", str(tmp_path / "full")], "holds something else than a probe"),
    ):
        assert probe(argv) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("furl-probe: ") and message in lines[0], lines
    assert not (tmp_path / "out").exists()
