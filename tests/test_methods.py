"""The paper's methods and the ablations: small config files over one module, and nothing computed that is not used."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from furl_lightning.agents.networks import PopulationMLP
from furl_lightning.commands.fit import fit
from furl_lightning.method.success_memory import MemorySettings, SuccessMemory
from furl_lightning.replay.successful_episodes import SuccessfulEpisodes

from .conftest import SMALL, Run

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.parent.name != "sweep")


def method(name: str) -> tuple[str, str]:
    return "--config", str(CONF / "method" / f"{name}.yaml")


def printed(*argv: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        fit([*argv, "--print_config"])
    assert not stopped.value.code
    return capsys.readouterr().out.splitlines()


# -- config files


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] in ("ablation", "beyond_paper")], ids=lambda f: f.stem)
def test_an_ablation_changes_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--config", str(CONF / "mt10.yaml")]
    lines = difflib.ndiff(printed(*base, capsys=capsys), printed(*base, "--config", str(CONF / file), capsys=capsys))
    changed = [line for line in lines if line[0] in "+-"]
    assert [line[0] for line in changed] == ["-", "+"], changed
    assert changed[0][2:].split(":")[0] == changed[1][2:].split(":")[0]


# -- what a method computes and stores

VLM_FIELDS = {"action", "next_observation", "observation", "reward", "terminated", "embedding"}
EXPECTED = {  # learners, fields of the replay buffer, metrics of
    "sac": ({"sac_agent"}, VLM_FIELDS - {"embedding"}, {"sac"}),
    "vlm": ({"reward", "vlm_agent"}, VLM_FIELDS, {"reward", "sac"}),
    "align": ({"reward", "vlm_agent"}, VLM_FIELDS | {"goal_distance"}, {"alignment", "memory", "reward", "sac"}),
    "relay": ({"reward", "sac_agent", "vlm_agent"}, VLM_FIELDS, {"relay", "reward", "sac"}),
    "furl_no_goal": (
        {"reward", "sac_agent", "vlm_agent"},
        VLM_FIELDS,
        {"alignment", "memory", "relay", "reward", "sac"},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_method_has_what_it_uses(run: Run, tmp_path: Path, name: str) -> None:
    vlm = {"model__vlm": "null"} if name == "sac" else {}
    checkpoint = run(name, *method(name), **vlm, data__env_steps=60)
    learners, fields, metrics = EXPECTED[name]
    weights = checkpoint["state_dict"]
    assert {key.split(".")[1] for key in weights} == learners
    trained = learners if "alignment" in metrics else learners - {"reward"}
    assert len(checkpoint["optimizer_states"]) == len(trained)
    frames = 0
    for file in (tmp_path / name / "checkpoints/rings").glob("*.safetensors"):
        with safe_open(file, "pt") as rings:
            remembered = [key for key in rings.keys() if key.startswith(("positive", "negative"))]  # noqa: SIM118
            assert set(rings.keys()) - set(remembered) == fields
            frames += sum(len(rings.get_tensor(key)) for key in remembered)
    rows = [line.split(",") for line in checkpoint["metrics"][1:]]
    assert {tag.split("/")[0] for _, tag, _ in rows} == metrics | {"train", "eval", "replay"}
    assert bool(frames) == ("memory" in metrics)
    assert (tmp_path / name / "goals").exists() == ("goal_distance" in fields)
    assert ("relay" in metrics) == (checkpoint["relay"] is not None)
    if "relay" in metrics:
        data = checkpoint["FuRLDataModule"]
        returns = sum(float(value) for _, tag, value in rows if tag == "train/return")
        assert data["success_steps"].tolist() == [50 + returns]  # each step in success is worth 0, else -1
        if name == "relay":
            assert checkpoint["relay"]["active"].tolist() == [int(data["success_steps"]) < 30]
    logged = {tag for _, tag, _ in rows}
    assert {f"sac/q/{agent}" in logged for agent in learners if agent.endswith("agent")} == {True}


@pytest.mark.parametrize(("threshold", "active"), [(1, False), (51, True)])
def test_the_relay_may_end_by_successes(run: Run, threshold: int, active: bool) -> None:
    """Agent 5's random actions close the drawer in the first episode."""
    seed = {"data__seeds": "[5]", "data__env_steps": 50, "model__relay__threshold": threshold}
    checkpoint = run("counted", *method("relay"), **seed)
    (returns,) = (float(line.split(",")[2]) for line in checkpoint["metrics"] if ",train/return," in line)
    assert 2 <= int(checkpoint["FuRLDataModule"]["success_steps"]) == 50 + returns
    assert checkpoint["relay"]["active"].tolist() == [active]


def test_frozen_counts_positives_without_holding_them(run: Run) -> None:
    """The ablation of the alignment keeps FuRL's end of the relay."""
    checkpoint = run("frozen", "--config", str(CONF / "ablation/frozen.yaml"), data__env_steps=50)
    written = checkpoint["FuRLDataModule"]["memory"]
    assert int(written["positives_written"] + written["negatives_written"]) == 50
    assert not any("head" in name for name in checkpoint["state_dict"])


def test_zero_shot_reward_is_the_cosine(run: Run, tmp_path: Path) -> None:
    checkpoint = run("vlm", *method("vlm"), data__env_steps=60, data__replay__batch_size=2000, model__log_every=10)
    held = []
    for file in sorted((tmp_path / "vlm/checkpoints/rings").glob("*.safetensors")):
        with safe_open(file, "pt") as rings:
            held.append(rings.get_tensor("embedding").float())
    embedding = torch.cat(held)[-60:, 0]
    cosine = torch.cosine_similarity(embedding, checkpoint["state_dict"]["learner.reward.text_embedding"], dim=-1)
    rows = [line.split(",") for line in checkpoint["metrics"]]
    values = {tag: float(value) for step, tag, value in rows if step == "60"}
    assert values["reward/vlm_max"] == pytest.approx(float(cosine.max()), abs=2e-3)
    assert values["reward/vlm"] == pytest.approx(float(cosine.mean()), abs=5e-3)


def test_more_updates_per_step(run: Run) -> None:
    sac = {"model__vlm": "null", "data__env_steps": 80}
    for updates in (1, 3):
        checkpoint = run(f"updates-{updates}", *method("sac"), **sac, model__updates_per_step=updates)
        assert checkpoint["optimizer_states"][0]["state"][0]["step"].tolist() == [30 * updates]


# -- SAC without OpenGL

DRIVER = """
import sys
import mujoco

class NoGL:
    def find_spec(self, name, path=None, target=None):
        if name in ("mujoco.egl", "mujoco.osmesa", "mujoco.glfw") or name.split(".")[0] == "OpenGL":
            raise ImportError(f"{name} is asked for")

sys.meta_path.insert(0, NoGL())
from furl_lightning.commands.fit import fit

status = fit(sys.argv[1:])
libraries = {line.split("/")[-1] for line in open("/proc/self/maps").read().split() if "lib" in line}
print([name for name in libraries if name.startswith(("libEGL", "libGL", "libOSMesa", "libOpenGL"))])
sys.exit(status)
"""


def without_gl(tmp_path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    small = {**SMALL, "data.env_steps": "60", "data.tasks": "[reach]"}
    flags = [part for key, value in small.items() for part in (f"--{key}", value)]
    return subprocess.run(
        [sys.executable, "-c", DRIVER, "--config", str(CONF / "mt10.yaml"), *argv, *flags, "--name", "s"],
        cwd=tmp_path,
        env={**os.environ, "MUJOCO_GL": "disable"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_sac_never_opens_a_gl_context(tmp_path: Path) -> None:
    """In a process that can import no GL module SAC trains and is evaluated; FuRL is refused there."""
    sac = without_gl(tmp_path, *method("sac"))
    assert sac.returncode == 0, sac.stderr
    assert "evaluation after 60 environment steps" in sac.stdout
    assert sac.stdout.splitlines()[-1] == "[]"
    (tmp_path / "furl").mkdir()
    furl = without_gl(tmp_path / "furl", *method("furl"))
    assert furl.returncode == 2
    assert "no OpenGL backend for headless rendering works here" in furl.stderr


# -- contradictions


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model.vlm", "null"], ["model.vlm", "model.relay.enabled", "model.reward.source"]),
        ([*method("sac"), "--model.relay.enabled", "true"], ["model.relay.enabled true", "model.vlm is null"]),
        ([*method("sac"), "--model.reward.source", "aligned"], ["model.reward.source aligned", "model.vlm is null"]),
        ([*method("sac"), "--model.reward.source", "cosine"], ["model.reward.source cosine", "model.vlm is null"]),
        ([*method("sac"), "--data.goal_image", "true"], ["data.goal_image true", "model.reward.source task"]),
        ([*method("vlm"), "--data.goal_image", "true"], ["data.goal_image true", "model.reward.source cosine"]),
        ([*method("relay"), "--data.goal_image", "true"], ["data.goal_image true", "model.reward.source cosine"]),
        (["--model.reward.source", "task"], ["model.reward.source task", "model.vlm"]),
        (
            ["--model.reward.source", "cosin"],
            ["or goal_baseline or goal_distance or task, not 'cosin'; the nearest is 'cosine'"],
        ),
        (["--data.goal_image", "maybe"], ["data.goal_image must be true or false, or null, not 'maybe'"]),
        (["--data.replay.success_share", "1"], ["data.replay.success_share must be at least 0 and below 1, not 1"]),
        (["--model.updates_per_step", "0"], ["model.updates_per_step must be at least 1, not 0"]),
    ],
)
def test_contradictions_name_both_settings(
    flags: list[str], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert fit(["--config", str(CONF / "mt10.yaml"), *flags, "--runs", str(runs), "--name", "bad"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("furl-fit:"))
    assert all(name in line for name in named), line
    assert not runs.exists()


def test_another_method_does_not_resume(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("other", *method("align"), data__env_steps=50)
    argv = ["--runs", str(tmp_path), "--name", "other", "--ckpt_path", "last", "--data.env_steps", "60"]
    for flags, named in (
        (method("vlm"), "model.reward.source is cosine, the checkpoint's is aligned"),
        (method("furl"), "model.relay.enabled is True, the checkpoint's is False"),
        (("--model.sac.critic_layer_norm", "true"), "model.sac.critic_layer_norm is True"),
        (("--data.replay.success_share", "0.5"), "(data.replay.success_share) is kept, the checkpoint's is not kept"),
    ):
        assert fit([*argv, *flags]) == 2
        assert named in capsys.readouterr().err


# -- beyond the paper


@pytest.mark.parametrize("capacity", [37, 60])
def test_successful_episodes_through_the_rings_wrap(capacity: int) -> None:
    """Against plain lists: every held step of a successful episode is drawn, and no other."""
    length, agents = 10, 2
    kept = SuccessfulEpisodes(agents, capacity, length)
    outcomes: list[list[bool]] = []
    g = torch.Generator().manual_seed(0)
    generators = [torch.Generator().manual_seed(i) for i in range(agents)]
    for written in range(1, 331):
        if written % length == 0:
            outcomes.append((torch.rand(agents, generator=g) < 0.4).tolist())
            kept.add(torch.tensor(outcomes[-1]))
        oldest = max(0, written - capacity)
        if written % 7:
            continue
        number = torch.full((agents, 400), -1)
        kept.replace(number, 300, oldest, generators)
        for i in range(agents):
            expected = {n for n in range(oldest, len(outcomes) * length) if outcomes[n // length][i]}
            assert set(number[i, :300].tolist()) == (expected or {-1})
            assert bool((number[i, 300:] == -1).all())
        restored = SuccessfulEpisodes(agents, capacity, length)
        restored.load_state_dict(kept.state_dict())
        assert (restored.ended, restored.success.tolist()) == (kept.ended, kept.success.tolist())


def test_steps_of_successful_episodes_are_drawn_alike() -> None:
    kept = SuccessfulEpisodes(1, 1000, 10)
    for success in (True, False, True):
        kept.add(torch.tensor([success]))
    number = torch.zeros(1, 15_000, dtype=torch.int64)
    kept.replace(number, 15_000, 5, [torch.Generator().manual_seed(0)])
    counts = torch.bincount(number[0], minlength=30)
    expected = torch.tensor([0] * 5 + [1000] * 5 + [0] * 10 + [1000] * 10)
    assert bool(((counts - expected).abs() <= 150).all()), counts


def test_layer_norm_of_a_population_is_its_members_own() -> None:
    g = torch.Generator().manual_seed(0)
    population = PopulationMLP([3, 2], [5, 8, 7, 1], layer_norm=True)
    for p in population.parameters():
        p.data = torch.randn(p.shape, generator=g)
    x = torch.randn(3, 2, 11, 5, generator=g)
    ours = population(x)
    for i in range(3):
        for k in range(2):
            h = x[i, k]
            own = {name: p.detach()[i, k] for name, p in population.named_parameters()}
            for depth in range(3):
                h = h @ own[f"layers.{depth}.weight"] + own[f"layers.{depth}.bias"]
                if depth < 2:
                    norm = nn.LayerNorm(h.shape[-1])
                    norm.weight.data = own[f"norms.{depth}.weight"][0]
                    norm.bias.data = own[f"norms.{depth}.bias"][0]
                    h = norm(h).relu()
            torch.testing.assert_close(ours[i, k], h)
    some = torch.tensor([2, 0])
    torch.testing.assert_close(population(x[some], some), ours[some])


def test_a_memory_of_no_agents_holds_and_writes_nothing() -> None:
    memory = SuccessMemory(0, 4, MemorySettings(size=10))
    assert memory.drawable.tolist() == memory.positives.tolist() == []
    assert memory.written.shape == (2, 0)
    frames = memory.frames(memory.written, memory.written)
    assert frames == {}
    memory.restore(frames, memory.written, memory.written)
