"""Zero-shot rewards and prompt ensembles: formulas, and the wiring into the learner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from furl_lightning.agents.sac import SACSettings
from furl_lightning.agents.transitions import Transitions
from furl_lightning.commands.fit import fit
from furl_lightning.method.learner import Batch, Learner, RewardSettings
from furl_lightning.method.zero_shot import ZeroShotReward, cosine_reward, goal_baseline_reward
from furl_lightning.randomness import Randomness
from furl_lightning.tasks import INSTRUCTIONS, Agent
from furl_lightning.vlm import CLIP
from furl_lightning.vlm.prompts import embed_prompt, ensemble

from .conftest import Run
from .test_population import WIDTH, FakeVLM


@pytest.fixture
def embeddings() -> tuple[Tensor, Tensor, Tensor]:
    """Frames [3, 7, 16], goals [3, 16], baselines [3, 16] of several lengths."""
    torch.manual_seed(0)
    return 5 * torch.randn(3, 7, 16), 2 * torch.randn(3, 16), torch.randn(3, 16)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_goal_baseline_is_the_papers_formula(embeddings: tuple[Tensor, Tensor, Tensor], strength: float) -> None:
    """The projection onto the line through b and g, found by solving for the nearest point on it."""
    reward = goal_baseline_reward(*embeddings, strength)
    assert reward.shape == (3, 7)
    frames, goals, baselines = (F.normalize(x.double(), dim=-1) for x in embeddings)
    for a in range(3):
        line = (goals[a] - baselines[a])[:, None]
        for b in range(7):
            place = torch.linalg.lstsq(line, (frames[a, b] - baselines[a])[:, None], driver="gelsd").solution
            projected = baselines[a] + (line @ place)[:, 0]
            regularised = strength * projected + (1 - strength) * frames[a, b]
            expected = 1 - 0.5 * (regularised - goals[a]).norm() ** 2
            torch.testing.assert_close(reward[a, b].double(), expected, rtol=1e-5, atol=1e-6)


def test_what_the_strength_means(embeddings: tuple[Tensor, Tensor, Tensor]) -> None:
    frames, goals, baselines = embeddings
    torch.testing.assert_close(goal_baseline_reward(*embeddings, 0.0), cosine_reward(frames, goals))
    torch.testing.assert_close(cosine_reward(frames, goals)[1, 2], F.cosine_similarity(frames[1, 2], goals[1], dim=0))
    aside = torch.linalg.svd(torch.stack([goals[0], baselines[0]])).Vh[-1]  # at right angles to both texts
    there = F.normalize(goals[0], dim=-1) + torch.tensor([[0.0], [0.5], [1.0]]) * aside
    ignoring = goal_baseline_reward(F.normalize(there, dim=-1)[None] * 9, goals[:1], baselines[:1], 1.0)
    minding = cosine_reward(there[None], goals[:1])
    assert (minding[0].diff() < 0).all()
    assert (ignoring - minding).min() >= -1e-6 and (ignoring[0, 1:] > minding[0, 1:]).all()
    assert goal_baseline_reward(goals[:, None], goals, baselines, 0.7).allclose(torch.ones(3, 1))


def test_the_module_is_called_as_the_aligned_reward(embeddings: tuple[Tensor, Tensor, Tensor]) -> None:
    frames, goals, baselines = embeddings
    plain, regularised = ZeroShotReward(goals), ZeroShotReward(goals, baselines[0], 0.4)
    assert not list(regularised.parameters())
    some = torch.tensor([2, 0])
    torch.testing.assert_close(plain(frames[[2, 0]], some), plain(frames)[[2, 0]])
    torch.testing.assert_close(regularised(frames[[2, 0]], some), regularised(frames)[[2, 0]])
    expected = goal_baseline_reward(frames, goals, baselines[:1].expand(3, -1), 0.4)
    torch.testing.assert_close(regularised(frames), expected)
    with pytest.raises(ValueError, match="have the same embedding"):
        ZeroShotReward(goals, 3 * goals[1])


def test_ensembles_are_averaged_at_length_one() -> None:
    torch.manual_seed(0)
    sentences = torch.randn(3, 16) * torch.tensor([[1.0], [10.0], [3.0]])
    together = ensemble(sentences)
    mean = (sentences / sentences.norm(dim=1, keepdim=True)).mean(0)
    torch.testing.assert_close(together / together.norm(), mean / mean.norm())
    torch.testing.assert_close(together.norm(), sentences.norm(dim=1).mean())
    assert torch.equal(ensemble(sentences[:1]), sentences[0])
    torch.testing.assert_close(ensemble(sentences[[0, 0]]), sentences[0])


def test_sentences_are_embedded_alone(tiny_clip: Path) -> None:
    """A sentence's embedding is the same, bit by bit, whatever else there is in an ensemble."""
    vlm, sentences = CLIP(str(tiny_clip)), ["push and close a window", "close it"]
    alone = torch.stack([embed_prompt(vlm, sentence, "prompts") for sentence in sentences])
    assert alone.shape == (2, vlm.width)
    assert torch.equal(embed_prompt(vlm, sentences, "prompts"), ensemble(alone))
    torch.testing.assert_close(alone, vlm.encode_texts(sentences))


AGENTS = [Agent("reach", 0), Agent("push", 1)]


def learner(**settings: Any) -> Learner:
    vlm, sac = FakeVLM(), SACSettings(hidden=(16, 16))
    reward = RewardSettings(rho=0.3, **settings)
    text = vlm.encode_texts([INSTRUCTIONS[agent.task] for agent in AGENTS])
    baseline = vlm.encode_texts([reward.baseline_prompt])[0] if reward.baseline_prompt else None
    return Learner(Randomness(AGENTS).init, 39, 4, text, baseline, reward=reward, sac=sac)


@pytest.mark.parametrize(
    "settings",
    [{"source": "cosine"}, {"source": "goal_baseline", "baseline_prompt": "a robot arm", "baseline_strength": 0.8}],
)
def test_the_learner_is_paid_zero_shot(settings: dict[str, object]) -> None:
    """rho times the VLM's own reward beside the task's; no heads, no optimizer of theirs, the same first policies."""
    module = learner(**settings)
    optimizers = module.optimizers()
    assert optimizers.heads is None and not any("head" in name for name in module.state_dict())
    assert optimizers.vlm_agent is not None and optimizers.sac_agent is not None
    aligned = learner()
    assert module.vlm_agent is not None and aligned.vlm_agent is not None
    for name, values in module.vlm_agent.state_dict().items():
        assert torch.equal(values, aligned.vlm_agent.state_dict()[name])
    torch.manual_seed(0)
    transitions = {
        "observation": torch.randn(2, 8, 39), "next_observation": torch.randn(2, 8, 39), "action": torch.rand(2, 8, 4),
        "reward": -torch.ones(2, 8), "discount": torch.ones(2, 8), "embedding": torch.randn(2, 8, WIDTH),
        "goal_distance": torch.full((2, 8), torch.nan),
    }  # fmt: skip
    paid: list[Tensor] = []
    update = module.vlm_agent.update

    def spy(batch: Transitions, reward: Tensor, *rest: Any) -> dict[str, Tensor]:
        paid.append(reward)
        return update(batch, reward, *rest)

    module.vlm_agent.update = spy  # type: ignore[method-assign,assignment]
    measured = module.update(Batch(Transitions(**transitions)), optimizers, Randomness(AGENTS).learning)
    text = torch.stack([FakeVLM().encode_texts([INSTRUCTIONS[agent.task]])[0] for agent in AGENTS])
    expected = F.cosine_similarity(transitions["embedding"], text[:, None], dim=-1)
    if settings["source"] == "goal_baseline":
        baseline = FakeVLM().encode_texts(["a robot arm"]).expand(2, -1)
        expected = goal_baseline_reward(transitions["embedding"], text, baseline, 0.8)
    torch.testing.assert_close(paid[0], -1 + 0.3 * expected)
    torch.testing.assert_close(measured["reward/vlm"], expected.mean(-1))
    assert not any(name.startswith("alignment/") for name in measured)


def test_a_run_with_a_baseline_and_an_ensemble_resumes(
    run: Run, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end; another prompt, or another reward, is another run."""
    settings = {
        "model__reward__source": "goal_baseline", "model__reward__baseline_prompt": "a robot arm",
        "model__log_every": 10, "data__prompts": "{drawer-close: [close a drawer, push a drawer]}",
    }  # fmt: skip
    run("zero", **settings, data__env_steps=70)
    resumed = run("zero", "--ckpt_path", "last", **settings, data__env_steps=90)
    assert resumed["FuRLDataModule"]["env_steps"] == 90
    assert len(resumed["optimizer_states"]) == 2
    rewards = [float(line.split(",")[2]) for line in resumed["metrics"] if ",reward/vlm," in line]
    rewards = [value for value in rewards if value == value]  # none before the first update
    assert len(rewards) == 4 and all(-1.5 < value <= 1 for value in rewards)
    assert not (tmp_path / "zero" / "goals").exists()  # nothing is aligned with a goal image
    capsys.readouterr()
    again = ["--runs", str(tmp_path), "--name", "zero", "--ckpt_path", "last", "--data.env_steps", "100"]
    for flags, message in (
        (["--data.prompts", "{drawer-close: close a drawer}"], "instructions (data.prompts) is close a drawer"),
        (["--model.reward.baseline_prompt", "a table"], "model.reward.source is goal_baseline (a table, 0.5)"),
    ):
        assert fit([*again, *flags]) == 2
        assert message in capsys.readouterr().err
