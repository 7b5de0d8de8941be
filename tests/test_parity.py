"""The learner against numbers recorded from the published implementation.

The recording lies in the folder that ``FURL_PARITY_DIR`` names; its README explains the arrays. The
same checks are made on a recording with other sizes and hyper-parameters from
:mod:`tests.reference_recording`. Each check is also made with the recorded agent as one member of a
population whose other members get other data.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mode
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from furl_lightning.agents import networks
from furl_lightning.agents.networks import Actor, PopulationLinear, PopulationMLP
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.sac import SAC, SACSettings
from furl_lightning.agents.transitions import Transitions
from furl_lightning.method.alignment import AlignedReward, AlignmentSettings, goal_mask, success_loss
from furl_lightning.method.learner import Batch, Learner, RewardSettings
from furl_lightning.method.relay import Relay, RelaySettings
from furl_lightning.method.success_memory import MemorySettings, SuccessMemory
from tests import reference_recording

FOLDER = Path(os.environ.get("FURL_PARITY_DIR") or Path(__file__).resolve().parents[1] / "../shared/parity")
MEMBERS = [(1, 0), (3, 0), (3, 1), (3, 2)]
"""Agents in the population, and which of them is the recorded one."""
Update = Callable[..., dict[str, Tensor]]


@pytest.fixture(scope="module")
def made_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with other values, of float64 reference equations."""
    folder = tmp_path_factory.mktemp("recording")
    reference_recording.write(folder)
    return folder


@pytest.fixture(params=["published", "other-values"])
def folder(request: pytest.FixtureRequest, made_here: Path) -> Path:
    """The folder of a recording."""
    if request.param == "other-values":
        return made_here
    if not FOLDER.is_dir():
        pytest.skip(f"no recording of the published implementation: {FOLDER} is absent; name it in FURL_PARITY_DIR")
    return FOLDER


members = pytest.mark.parametrize(("num", "at"), MEMBERS, ids=[f"agent{i}of{n}" for n, i in MEMBERS])


# -- reading a recording


class Recording:
    """One ``.npz`` file; an array that lacks or has another shape fails the test by name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = f"{name}.npz"
        if not (folder / self.name).is_file():
            pytest.fail(f"the recording lacks the file {self.name}")
        with np.load(folder / self.name) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.meta: dict[str, Any] = json.loads(str(self.arrays["meta"])) if "meta" in self.arrays else {}

    def value(self, key: str) -> Any:
        """A hyper-parameter."""
        if key not in self.meta:
            pytest.fail(f"{self.name}: 'meta' lacks '{key}'")
        return self.meta[key]

    def get(self, name: str, *shape: int) -> Tensor:
        """An array of that shape; floats as float32, whole numbers as int64."""
        if name not in self.arrays:
            pytest.fail(f"{self.name}: array '{name}' is missing; expected shape {shape}, found none")
        array = self.arrays[name]
        if array.shape != shape:
            pytest.fail(f"{self.name}: array '{name}' has shape {array.shape}; expected shape {shape}")
        return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))

    def size(self, axis: int, *endings: str) -> int:
        """A size that no hyper-parameter gives: what most arrays whose names end so have on an axis."""
        found = [a.shape[axis] for n, a in self.arrays.items() if n.endswith(endings) and a.ndim >= abs(axis)]
        if not found:
            pytest.fail(f"{self.name}: no array named '...{endings[0]}' is there to take a size from")
        return mode(found)

    def logged(self, prefix: str) -> set[str]:
        """Names of the scalars and vectors under a prefix."""
        return {name.removeprefix(prefix) for name in self.arrays if name.startswith(prefix)}


# -- the tolerances of the recording's README


def assert_outputs(name: str, ours: Tensor, recorded: Tensor) -> None:
    excess = (ours - recorded).abs() - 1e-3 * (1e-3 + recorded.abs())
    assert bool((excess <= 0).all()), f"{name}: {ours} where {recorded} was recorded"


def assert_close(name: str, ours: Tensor, recorded: Tensor) -> None:
    error = float((ours - recorded).abs().max())
    assert error <= 1e-5, f"{name}: differs by {error:.2e}"


def assert_parameters(what: str, ours: dict[str, Tensor], recorded: dict[str, Tensor], lr: float) -> None:
    """99.9 % of a network's entries within 1e-5, each within 2e-4.

    An entry whose gradient is next to zero may go one step of lr the other way, whence the 2e-4 at
    the recorded lr of 1e-4; a greater lr needs more.
    """
    for network in sorted({name.split("/")[0] for name in recorded}):
        names = [name for name in recorded if name.split("/")[0] == network]
        error = torch.cat([(ours[n] - recorded[n]).abs().flatten() for n in names])
        worst = {n: f"{float((ours[n] - recorded[n]).abs().max()):.1e}" for n in names}
        near = float((error <= 1e-5).double().mean())
        assert near >= 0.999, f"{what}: only {near:.3%} of {network} is within 1e-5; greatest differences {worst}"
        assert float(error.max()) <= max(2e-4, 2 * lr), f"{what}: {network}'s greatest differences are {worst}"


# -- recorded parameters in the project's modules


def layers_of(agent: SAC) -> dict[str, PopulationLinear]:
    """The layers by Flax's names."""
    out = {f"actor/net/Dense_{i}": layer for i, layer in enumerate(agent.actor.net.layers)}
    out["actor/mu_layer"], out["actor/std_layer"] = agent.actor.mean, agent.actor.std
    for flax, critic in (("critic", agent.critic), ("critic_target", agent.target_critic)):
        *inner, last = critic.net.layers
        out.update({f"{flax}/VmapCritic_0/net/Dense_{i}": layer for i, layer in enumerate(inner)})
        out[f"{flax}/VmapCritic_0/out_layer"] = last
    return out  # type: ignore[return-value]


def layers_of_heads(reward: AlignedReward) -> dict[str, PopulationLinear]:
    heads: dict[str, PopulationMLP] = {"text_encoder": reward.text_head, "image_encoder": reward.image_head}
    out = {f"{head}/Dense_{i}": layer for head, mlp in heads.items() for i, layer in enumerate(mlp.layers)}
    return out  # type: ignore[return-value]


def views(layers: dict[str, PopulationLinear], log_alpha: Tensor | None, at: int) -> dict[str, Tensor]:
    """One agent's parameters under Flax's names and in its shapes; writing to them writes to the module."""
    out: dict[str, Tensor] = {}
    for name, layer in layers.items():
        out[f"{name}/kernel"] = layer.weight.detach()[at]
        out[f"{name}/bias"] = layer.bias.detach()[at].squeeze(-2)
    if log_alpha is not None:
        out["log_alpha/value"] = log_alpha.detach()[at]
    return out


def read_into(recording: Recording, prefix: str, own: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: recording.get(f"{prefix}/{name}", *view.shape) for name, view in own.items()}


def load(recording: Recording, own: dict[str, Tensor]) -> None:
    for name, value in read_into(recording, "init", own).items():
        own[name].copy_(value)


def generators(num: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(num)]


def among(value: Tensor, num: int, at: int) -> Tensor:
    """[num, ...]: the value at one place, other data of its range at the others."""
    out = torch.stack([value.roll(i + 1, 0) * (0.5 + 0.3 * i) for i in range(num)])
    out[at] = value
    return out


# -- the checks


def sac_of(recording: Recording, num: int, at: int) -> tuple[SAC, dict[str, Tensor]]:
    """A population of which one member has the recorded parameters, and those as views."""
    obs = recording.size(-1, "observations")
    action = recording.size(-1, "actions", "eps", "eps_actor", "eps_next")
    hidden = recording.meta.get("hidden_dims")
    if hidden is None:
        depth = sum(name.startswith("init/actor/net/") and name.endswith("/bias") for name in recording.arrays)
        hidden = [recording.size(-1, f"init/actor/net/Dense_{i}/bias") for i in range(depth)]
    given = {key: recording.meta[key] for key in ("gamma", "tau", "target_entropy", "min_std") if key in recording.meta}
    agent = SAC(num, obs, action, SACSettings(hidden=tuple(hidden), lr=recording.meta.get("lr", 1e-4), **given))
    agent.reset_parameters(generators(num))
    own = views(layers_of(agent), agent.log_alpha, at)
    load(recording, own)
    return agent, own


def widths(agent: SAC) -> tuple[int, int]:
    """Sizes of an observation and of an action."""
    return layers_of(agent)["actor/net/Dense_0"].weight.shape[-2], agent.actor.mean.weight.shape[-1]


def check_actor(folder: Path, num: int, at: int) -> None:
    recording = Recording(folder, "actor")
    agent, _ = sac_of(recording, num, at)
    actor, (obs, action) = agent.actor, widths(agent)
    size = recording.size(0, "observations", "eps", "log_prob")
    observation = among(recording.get("observations", size, obs), num, at)
    noise = among(recording.get("eps", size, action), num, at)
    with torch.no_grad():
        sampled, log_prob = actor.sample(observation, noise)
        mean = actor.deterministic(observation)
    assert_close("mean_action", mean[at], recording.get("mean_action", size, action))
    assert_close("sampled_action", sampled[at], recording.get("sampled_action", size, action))
    assert_outputs("log_prob", log_prob[at], recording.get("log_prob", size))


SAC_OUTPUTS = {  # recorded name: ours
    **{name: name for name in ("critic_loss", "actor_loss", "alpha_loss", "alpha")},
    "logp": "log_prob",
}
"""Beside these, q and q_max are of the first of both critics where ours are of the smaller one."""


def transitions_of(recording: Recording, k: int, num: int, at: int, agent: SAC) -> dict[str, Tensor]:
    size, (obs, action) = recording.value("batch_size"), widths(agent)
    shapes = {
        "observations": (size, obs), "actions": (size, action), "rewards": (size,), "discounts": (size,),
        "next_observations": (size, obs), "eps_actor": (size, action), "eps_next": (size, action),
    }  # fmt: skip
    return {name: among(recording.get(f"step{k}/{name}", *shape), num, at) for name, shape in shapes.items()}


def transitions(batch: dict[str, Tensor], **others: Tensor) -> Transitions:
    return Transitions(
        batch["observations"],
        batch["actions"],
        batch["next_observations"],
        batch["rewards"],
        batch["discounts"],
        **others,
    )


def check_sac(folder: Path, num: int, at: int) -> None:
    recording = Recording(folder, "sac_update")
    agent, own = sac_of(recording, num, at)
    recording.value("lr")
    optimizer = agent.optimizer()

    def update(batch: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        return agent.update(transitions(batch), batch["rewards"], batch["eps_actor"], batch["eps_next"], optimizer)

    check_updates(recording, agent, own, num, at, update)


def check_updates(recording: Recording, agent: SAC, own: dict[str, Tensor], num: int, at: int, update: Update) -> None:
    steps, lr = recording.value("steps"), recording.value("lr")
    for k in range(steps):
        batch = transitions_of(recording, k, num, at, agent)
        with torch.no_grad():
            q = agent.critic(batch["observations"], batch["actions"])
        measured = update(batch, k)
        torch.testing.assert_close(measured["q"], q.amin(1).mean(-1))
        torch.testing.assert_close(measured["q_max"], q.amin(1).amax(-1))
        assert_outputs(f"step{k}/out/q", q[at, 0].mean(), recording.get(f"step{k}/out/q"))
        assert_outputs(f"step{k}/out/q_max", q[at, 0].max(), recording.get(f"step{k}/out/q_max"))
        compared = {"q", "q_max"}
        for theirs, ours in SAC_OUTPUTS.items():
            assert_outputs(f"step{k}/out/{theirs}", measured[ours][at], recording.get(f"step{k}/out/{theirs}"))
            compared.add(theirs)
        if "rvlm_reward" in measured:
            recorded = recording.get(f"step{k}/out/rvlm_reward")
            assert_outputs(f"step{k}/out/rvlm_reward", measured["rvlm_reward"][at], recorded)
            compared.add("rvlm_reward")
        assert recording.logged(f"step{k}/out/") == compared, "the recording has outputs that no one compares"
        if k in (0, steps - 1):
            assert_parameters(f"after step {k}", own, read_into(recording, f"after{k}", own), lr)


class RecordedReward(nn.Module):
    """Stands where the heads are; the recording holds their cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.cosine = torch.empty(0)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.cosine


def check_furl(folder: Path, num: int, at: int) -> None:
    """Through the learner's update, which mixes the rewards, with the recorded cosines in place of the heads'."""
    recording = Recording(folder, "furl_update")
    agent, own = sac_of(recording, num, at)
    size, (obs, action) = recording.value("batch_size"), widths(agent)
    reward = RewardSettings(rho=recording.value("rho"))
    learner = Learner(generators(num), obs, action, torch.ones(num, 1), reward=reward, sac=agent.settings)
    recorded = RecordedReward()
    learner.vlm_agent, learner.reward = agent, recorded  # type: ignore[assignment]
    assert learner.relay is not None
    learner.relay.active[:] = False  # the plain SAC agents have a recording of their own
    optimizers = learner.optimizers()
    mixed: list[Tensor] = []
    original = agent.update

    def spy(batch: Any, reward: Tensor, *rest: Any) -> dict[str, Tensor]:
        mixed.append(reward.mean(-1))
        return original(batch, reward, *rest)

    agent.update = spy  # type: ignore[method-assign,assignment]

    def update(batch: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        recorded.cosine = among(recording.get(f"step{k}/vlm_rewards", size), num, at)
        noise = torch.stack([batch["eps_actor"], batch["eps_next"]] * 2, 1)
        frames = torch.zeros(num, size, 1)
        measured = learner.update(Batch(transitions(batch, embedding=frames)), optimizers, noise=noise)
        out = {ours: measured[f"sac/{ours}/vlm_agent"] for ours in (*SAC_OUTPUTS.values(), "q", "q_max")}
        return {**out, "rvlm_reward": mixed[-1]}

    check_updates(recording, agent, own, num, at, update)


def heads_of(recording: Recording, num: int, at: int) -> tuple[AlignedReward, PopulationAdam, dict[str, Tensor]]:
    width = recording.size(-1, "embeddings", "text_embedding")
    hidden, out = (recording.size(-1, f"encoder/Dense_{i}/bias") for i in range(2))
    text = among(recording.get("text_embedding", 1, width), num, at)[:, 0]
    margins = {key: recording.meta[key] for key in ("margin", "l2_margin") if key in recording.meta}
    recording.value("margin")
    reward = AlignedReward(text, AlignmentSettings(lr=recording.value("lr"), hidden=hidden, width=out, **margins))
    reward.reset_parameters(generators(num))
    own = views(layers_of_heads(reward), None, at)
    load(recording, own)
    return reward, reward.optimizer(), own


def check_reward_goal(folder: Path, num: int, at: int) -> None:
    recording = Recording(folder, "reward_goal")
    recording.value("l2_margin")
    reward, optimizer, own = heads_of(recording, num, at)
    size, steps, lr = (recording.value(key) for key in ("batch_size", "steps", "lr"))
    for k in range(steps):
        embedding = among(recording.get(f"step{k}/embeddings", size, reward.text_embedding.shape[-1]), num, at)
        distance = among(recording.get(f"step{k}/goal_distances", size), num, at)
        mask = goal_mask(distance, reward.settings.l2_margin)[at]
        assert torch.equal(mask, recording.get(f"step{k}/masks", size, size)), f"step{k}/masks"
        cosine, measured = reward.update_by_goal(embedding, distance, optimizer)
        assert_close(f"step{k}/out/vlm_rewards", cosine[at], recording.get(f"step{k}/out/vlm_rewards", size))
        assert_outputs(f"step{k}/out/pos_loss", measured["loss"][at], recording.get(f"step{k}/out/pos_loss"))
        assert measured["ordered"][at].item() == pytest.approx(mask.sum().item() / (size * (size - 1) / 2))
        assert recording.logged(f"step{k}/out/") == {"vlm_rewards", "pos_loss"}
        if k in (0, steps - 1):
            assert_parameters(f"after step {k}", own, read_into(recording, f"after{k}", own), lr)


def check_reward_success(folder: Path, num: int, at: int) -> None:
    """The recording calls the lags' loss pos_loss."""
    recording = Recording(folder, "reward_success")
    reward, optimizer, own = heads_of(recording, num, at)
    size, steps, lr = (recording.value(key) for key in ("batch_size", "steps", "lr"))
    for k in range(steps):
        triples = torch.stack(
            [
                among(recording.get(f"step{k}/{name}_embeddings", size, reward.text_embedding.shape[-1]), num, at)
                for name in ("pos", "lag", "neg")
            ],
            1,
        )
        with torch.no_grad():
            positive, lag, negative = (reward(embedding)[at] for embedding in triples.unbind(1))
        assert_close(f"step{k}/reward_before", positive, recording.get(f"step{k}/reward_before", size))
        measured = {name: values[at] for name, values in reward.update_by_success(triples, optimizer).items()}
        scalars = {
            "pos_cosine": measured["cos_positive"], "lag_cosine": measured["cos_lag"],
            "neg_cosine": measured["cos_negative"], "neg_loss": measured["loss_negative"],
            "pos_loss": measured["loss_lag"],
        }  # fmt: skip
        assert_outputs("loss", measured["loss"], scalars["neg_loss"] + scalars["pos_loss"])
        # A triple for an agent gives the losses of each: [size] in place of their mean.
        each = success_loss(positive[:, None], lag[:, None], negative[:, None], reward.settings.margin)
        for name, other, loss in (("neg", negative, each[0]), ("pos", lag, each[1])):
            scalars[f"{name}_loss_max"] = loss.max()
            gate = other - positive + reward.settings.margin
            recorded = float(recording.get(f"step{k}/out/{name}_num"))
            assert int((gate > 1e-6).sum()) <= recorded <= int((gate > -1e-6).sum()), f"step{k}/out/{name}_num"
            assert int((loss != 0).sum()) == int((gate > 0).sum())
        for name, values in (("pos", positive), ("lag", lag), ("neg", negative)):
            scalars[f"{name}_cosine_max"], scalars[f"{name}_cosine_min"] = values.max(), values.min()
        for name, ours in scalars.items():
            within = assert_close if "cosine" in name else assert_outputs
            within(f"step{k}/out/{name}", ours, recording.get(f"step{k}/out/{name}"))
        assert recording.logged(f"step{k}/out/") == {*scalars, "neg_num", "pos_num"}
        if k in (0, steps - 1):
            assert_parameters(f"after step {k}", own, read_into(recording, f"after{k}", own), lr)


def check_memory(folder: Path, num: int, at: int) -> None:
    """By the published lag rule, in float32: the recorded embeddings are running numbers."""
    recording = Recording(folder, "embedding_memory")
    capacity, length, gap = (recording.value(key) for key in ("capacity", "episode_length", "gap"))
    width = recording.size(-1, "/embeddings")
    memory = SuccessMemory(num, width, MemorySettings(capacity, gap, "published"), dtype=torch.float32)
    others = [i for i in range(num) if i != at]
    for episode in range(recording.value("episodes")):
        success = recording.get(f"ep{episode}/success", length).bool()
        embedding = recording.get(f"ep{episode}/embeddings", length, width)
        memory.add_episode(at, embedding, success)
        for i in others:
            memory.add_episode(i, -embedding, success.roll(i) if episode % 2 else ~success)
        for ring, name in ((memory.positive, "pos_ids"), (memory.negative, "neg_ids")):
            assert torch.equal(ring[at, :, 0].long(), recording.get(f"ep{episode}/{name}", capacity)), name
        assert torch.equal(memory.valid[at].long(), recording.get(f"ep{episode}/valid_idxes", capacity))
        sizes = [memory.positives, memory.negatives, memory.valid_size]
        places = [n % capacity for n in (memory.positives_written, memory.negatives_written, memory.valid_written)]
        ours = torch.stack([n[at] for n in (*sizes, *places)])
        assert torch.equal(ours, recording.get(f"ep{episode}/sizes", 6)), f"ep{episode}/sizes"
    draws = recording.size(0, "sample_pos", "sample_lag", "sample_neg", "sample_neg_idx", "sample_valid_idx")
    valid_index, negative_index = (recording.get(f"sample_{n}_idx", draws) for n in ("valid", "neg"))
    (triples,) = memory.triples([at], valid_index[None], negative_index[None])
    for name, ours in zip(("pos", "lag", "neg"), triples, strict=True):
        assert torch.equal(ours[:, 0].long(), recording.get(f"sample_{name}", draws)), f"sample_{name}"


def check_relay(folder: Path, num: int, at: int) -> None:
    recording = Recording(folder, "relay")
    steps = recording.size(0, "episode", "episode_step", "relay_step", "acts")
    columns = {name: recording.get(name, steps) for name in ("episode", "episode_step", "relay_step", "acts")}
    relay = Relay(num, RelaySettings(turns=tuple(recording.value("relay_steps"))))
    for row in range(steps):
        step = int(columns["episode_step"][row])
        if step == 0:
            turn = torch.tensor([relay.turns[i % len(relay.turns)] for i in range(num)])
            turn[at] = columns["relay_step"][row]
            assert bool((relay.turns == turn[at]).any())
            relay.begin_episode_with(turn)
        assert relay.episode == int(columns["episode"][row])
        acts = relay.sac_acts(step)[at]
        assert bool(acts) == bool(columns["acts"][row]), f"episode {relay.episode}, step {step}"


CHECKS: dict[str, Callable[[Path, int, int], None]] = {
    "actor": check_actor,
    "sac_update": check_sac,
    "furl_update": check_furl,
    "reward_goal": check_reward_goal,
    "reward_success": check_reward_success,
    "embedding_memory": check_memory,
    "relay": check_relay,
}


@members
@pytest.mark.parametrize("name", CHECKS)
def test_parity(name: str, folder: Path, num: int, at: int) -> None:
    CHECKS[name](folder, num, at)


# -- bad recordings

DOCTORED = {
    "actor": "sampled_action",
    "sac_update": "step1/actions",
    "furl_update": "after2/critic/VmapCritic_0/out_layer/kernel",
    "reward_goal": "step0/masks",
    "reward_success": "init/text_encoder/Dense_1/kernel",
    "embedding_memory": "ep3/valid_idxes",
    "relay": "acts",
}


def doctor(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    with np.load(folder / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    np.savez(folder / f"{name}.npz", **arrays)


@pytest.mark.parametrize(("name", "array"), DOCTORED.items(), ids=DOCTORED)
def test_wrong_shape_is_named(name: str, array: str, made_here: Path, tmp_path: Path) -> None:
    shutil.copy(made_here / f"{name}.npz", tmp_path)
    shapes: list[tuple[int, ...]] = []

    def cut(arrays: dict[str, np.ndarray]) -> None:
        shapes.append(arrays[array].shape)
        arrays[array] = arrays[array][:-1]
        shapes.append(arrays[array].shape)

    doctor(tmp_path, name, cut)
    with pytest.raises(pytest.fail.Exception) as failure:
        CHECKS[name](tmp_path, 1, 0)
    for part in (f"{name}.npz", f"'{array}'", *map(str, shapes)):
        assert part in str(failure.value)


@pytest.mark.parametrize(("name", "array"), DOCTORED.items(), ids=DOCTORED)
def test_missing_array_is_named(name: str, array: str, made_here: Path, tmp_path: Path) -> None:
    shutil.copy(made_here / f"{name}.npz", tmp_path)
    doctor(tmp_path, name, lambda arrays: arrays.__delitem__(array))
    with pytest.raises(pytest.fail.Exception, match=f"{name}.npz: array '{array}' is missing; expected shape"):
        CHECKS[name](tmp_path, 1, 0)


def test_missing_hyperparameter_and_file_are_named(made_here: Path, tmp_path: Path) -> None:
    shutil.copy(made_here / "sac_update.npz", tmp_path)

    def without_lr(arrays: dict[str, np.ndarray]) -> None:
        meta = json.loads(str(arrays["meta"]))
        del meta["lr"]
        arrays["meta"] = np.array(json.dumps(meta))

    doctor(tmp_path, "sac_update", without_lr)
    with pytest.raises(pytest.fail.Exception, match="'meta' lacks 'lr'"):
        check_sac(tmp_path, 1, 0)
    with pytest.raises(pytest.fail.Exception, match=r"lacks the file relay\.npz"):
        check_relay(tmp_path, 1, 0)


# -- compiled


@pytest.fixture
def compiler() -> Iterator[None]:
    """torch.compile needs a C++ compiler for its default backend."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler; none of c++, g++, clang++ is on the path")
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)  # what checks axes cannot be compiled
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


def assert_same(compiled: dict[str, Tensor], eager: dict[str, Tensor]) -> None:
    for name, values in eager.items():
        assert torch.allclose(compiled[name], values, rtol=1e-5, atol=1e-6), name


def assert_same_parameters(compiled: nn.Module, eager: nn.Module, lr: float) -> None:
    error = torch.cat([(a - b).abs().flatten() for a, b in zip(compiled.parameters(), eager.parameters(), strict=True)])
    assert float((error <= 1e-6).double().mean()) >= 0.999
    assert float(error.max()) <= 2 * lr


@pytest.mark.usefixtures("compiler")
def test_compiled_update_agrees_with_eager(made_here: Path) -> None:
    recording = Recording(made_here, "sac_update")
    (agent, _), (twin, _) = (sac_of(recording, 2, 0) for _ in range(2))
    lr = recording.value("lr")
    optimizer, twin_optimizer = agent.optimizer(), twin.optimizer()
    compiled = torch.compile(twin.update, dynamic=False)
    for k in range(recording.value("steps")):
        batch = transitions_of(recording, k, 2, 0, agent)
        rest = transitions(batch), batch["rewards"], batch["eps_actor"], batch["eps_next"]
        assert_same(compiled(*rest, twin_optimizer), agent.update(*rest, optimizer))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    assert_same_parameters(twin, agent, lr)


@pytest.mark.usefixtures("compiler")
def test_compiled_alignment_agrees_with_eager(made_here: Path) -> None:
    goal, success = Recording(made_here, "reward_goal"), Recording(made_here, "reward_success")
    (reward, optimizer, _), (twin, twin_optimizer, _) = (heads_of(goal, 2, 0) for _ in range(2))
    size, width = goal.value("batch_size"), reward.text_embedding.shape[-1]
    by_goal = torch.compile(twin.update_by_goal, dynamic=False)
    by_success = torch.compile(twin.update_by_success, dynamic=False)
    for k in range(goal.value("steps")):
        embedding = among(goal.get(f"step{k}/embeddings", size, width), 2, 0)
        distance = among(goal.get(f"step{k}/goal_distances", size), 2, 0)
        cosine, measured = reward.update_by_goal(embedding, distance, optimizer)
        twin_cosine, twin_measured = by_goal(embedding, distance, twin_optimizer)
        assert_same({**twin_measured, "cosine": twin_cosine}, {**measured, "cosine": cosine})
        frames = (success.get(f"step{k}/{n}_embeddings", size, width) for n in ("pos", "lag", "neg"))
        triples = torch.stack([among(f, 2, 0) for f in frames], 1)
        assert_same(by_success(triples, twin_optimizer), reward.update_by_success(triples, optimizer))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2, "nothing was compiled"
    assert_same_parameters(twin, reward, goal.value("lr"))


# -- bfloat16


def test_update_in_bfloat16_is_near(made_here: Path) -> None:
    """What --trainer.precision bf16-mixed does: products in bfloat16, outputs, losses and parameters in float32."""
    recording = Recording(made_here, "sac_update")
    (agent, _), (twin, _) = (sac_of(recording, 2, 0) for _ in range(2))
    lr = recording.value("lr")
    optimizer, twin_optimizer = agent.optimizer(), twin.optimizer()
    for k in range(recording.value("steps")):
        batch = transitions_of(recording, k, 2, 0, agent)
        rest = transitions(batch), batch["rewards"], batch["eps_actor"], batch["eps_next"]
        exact = agent.update(*rest, optimizer)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = twin.actor.net(batch["observations"])
            near = twin.update(*rest, twin_optimizer)
        assert hidden.dtype == torch.bfloat16, "nothing was rounded"
        for name, values in exact.items():
            assert near[name].dtype == torch.float32
            torch.testing.assert_close(near[name], values, rtol=0.05, atol=0.02)
    for ours, theirs in zip(twin.parameters(), agent.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).detach().abs().max()) <= 2 * lr * recording.value("steps")


def test_actor_takes_its_least_deviation_from_the_caller() -> None:
    default, other = Actor(1, 3, 2, [8]), Actor(1, 3, 2, [8], min_std=0.5)
    observation = torch.zeros(1, 1, 3)
    difference = other(observation)[1] - default(observation)[1]
    torch.testing.assert_close(difference, torch.full((1, 1, 2), 0.5 - networks.MIN_STD))
