"""A recording made here: reference equations in float64, written apart from the package's code.

The arrays have the names and shapes of the authors' recording and other values (sizes,
hyper-parameters), so that the parity tests can be run where the authors' numbers are absent, and
are seen to take everything from the recording. These are not the authors' numbers.

``python -m tests.reference_recording FOLDER`` writes it; then set ``FURL_PARITY_DIR`` to FOLDER.
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Params = dict[str, Tensor]

OBS, ACTION, HIDDEN = 11, 3, [40, 24]
WIDTH, HEAD_HIDDEN, HEAD_WIDTH = 48, 28, 12
META: dict[str, Any] = {
    "lr": 3e-4, "tau": 0.02, "gamma": 0.95, "target_entropy": -1.25, "hidden_dims": HIDDEN, "min_std": 0.02,
    "rho": 0.1, "steps": 3, "batch_size": 32,
}  # fmt: skip
HEAD_META: dict[str, Any] = {"lr": 3e-4, "margin": 0.2, "l2_margin": 0.4, "steps": 3, "batch_size": 24}
MEMORY_META: dict[str, Any] = {"gap": 5, "capacity": 90, "episodes": 17, "episode_length": 30}
RELAY_META: dict[str, Any] = {"relay_steps": [10, 20, 35], "acts": "0 = VLM agent, 1 = SAC agent"}


def _dense(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.tensor(rng.normal(0, shape[-2] ** -0.5, shape).astype(np.float32)).double()


def _layers(rng: np.random.Generator, prefix: str, sizes: list[int], last: str, lead: tuple[int, ...] = ()) -> Params:
    out: Params = {}
    for depth, (i, o) in enumerate(pairwise(sizes)):
        name = last if last and depth == len(sizes) - 2 else f"{prefix}Dense_{depth}"
        out[f"{name}/kernel"] = _dense(rng, *lead, i, o)
        out[f"{name}/bias"] = torch.tensor(rng.normal(0, 0.05, (*lead, o)).astype(np.float32)).double()
    return out


def _agent(rng: np.random.Generator) -> Params:
    params = _layers(rng, "actor/net/", [OBS, *HIDDEN], "")
    for name in ("mu_layer", "std_layer"):
        params.update(_layers(rng, "", [HIDDEN[-1], ACTION], f"actor/{name}"))
    root = "VmapCritic_0"
    critic = _layers(rng, f"{root}/net/", [OBS + ACTION, *HIDDEN, 1], f"{root}/out_layer", (2,))
    for name, value in critic.items():
        params[f"critic/{name}"] = value
        params[f"critic_target/{name}"] = (value + 0.01 * torch.tensor(rng.normal(size=value.shape))).float().double()
    params["log_alpha/value"] = torch.tensor(-0.3, dtype=torch.float64)
    return params


def _relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def _policy(p: Params, obs: Tensor, eps: Tensor, min_std: float) -> tuple[Tensor, Tensor, Tensor]:
    h = obs
    for depth in range(len(HIDDEN)):
        h = _relu(h @ p[f"actor/net/Dense_{depth}/kernel"] + p[f"actor/net/Dense_{depth}/bias"])
    mean = h @ p["actor/mu_layer/kernel"] + p["actor/mu_layer/bias"]
    std = torch.log1p(torch.exp(h @ p["actor/std_layer/kernel"] + p["actor/std_layer/bias"])) + min_std
    action = torch.tanh(mean + std * eps)
    normal = torch.exp(-(eps**2) / 2) / (std * math.sqrt(2 * math.pi))
    log_prob = (normal.log() - (1 - action**2).log()).sum(-1)
    return torch.tanh(mean), action, log_prob


def _values(p: Params, which: str, obs: Tensor, action: Tensor) -> Tensor:
    x, root = torch.cat([obs, action], 1), f"{which}/VmapCritic_0"
    out = []
    for k in range(2):
        h = x
        for depth in range(len(HIDDEN)):
            h = _relu(h @ p[f"{root}/net/Dense_{depth}/kernel"][k] + p[f"{root}/net/Dense_{depth}/bias"][k])
        out.append((h @ p[f"{root}/out_layer/kernel"][k] + p[f"{root}/out_layer/bias"][k])[:, 0])
    return torch.stack(out)


class _Adam:
    def __init__(self, lr: float) -> None:
        self.lr, self.count = lr, 0
        self.m: Params = {}
        self.v: Params = {}

    def step(self, params: Params, loss: Callable[[Params], Tensor], names: list[str]) -> Params:
        """The named parameters after one step on the loss, differentiated at ``params``."""
        variables = {n: params[n].detach().clone().requires_grad_(n in names) for n in params}
        grads = torch.autograd.grad(loss(variables), [variables[n] for n in names])
        self.count += 1
        out = {}
        for name, grad in zip(names, grads, strict=True):
            self.m[name] = 0.9 * self.m.get(name, torch.zeros_like(grad)) + 0.1 * grad
            self.v[name] = 0.999 * self.v.get(name, torch.zeros_like(grad)) + 0.001 * grad**2
            m, v = self.m[name] / (1 - 0.9**self.count), self.v[name] / (1 - 0.999**self.count)
            out[name] = params[name] - self.lr * m / (v.sqrt() + 1e-8)
        return out


def _sac(rng: np.random.Generator, furl: bool) -> dict[str, Any]:
    meta, batch = dict(META), META["batch_size"]
    if not furl:
        del meta["rho"]
    p = _agent(rng)
    out: dict[str, Any] = {f"init/{n}": v for n, v in p.items()}
    adams = {part: _Adam(meta["lr"]) for part in ("actor", "critic/", "log_alpha")}
    for k in range(meta["steps"]):
        draw = {
            "eps_actor": rng.normal(size=(batch, ACTION)),
            "eps_next": rng.normal(size=(batch, ACTION)),
            "observations": rng.normal(size=(batch, OBS)),
            "actions": rng.uniform(-1, 1, (batch, ACTION)),
            "rewards": rng.integers(0, 2, batch) - 1.0,
            "discounts": rng.integers(0, 8, batch).clip(0, 1) * 1.0,
            "next_observations": rng.normal(size=(batch, OBS)),
            "vlm_rewards": rng.uniform(-1, 1, batch),
        }
        b = {n: torch.tensor(v.astype(np.float32)).double() for n, v in draw.items()}
        out.update({f"step{k}/{n}": v for n, v in b.items()})
        reward = b["rewards"] + meta["rho"] * b["vlm_rewards"] if furl else b["rewards"]
        alpha = p["log_alpha/value"].exp()
        _, next_action, next_logp = _policy(p, b["next_observations"], b["eps_next"], meta["min_std"])
        next_q = _values(p, "critic_target", b["next_observations"], next_action).min(0).values
        y = reward + meta["gamma"] * b["discounts"] * (next_q - alpha * next_logp)
        q = _values(p, "critic", b["observations"], b["actions"])
        _, _, logp = _policy(p, b["observations"], b["eps_actor"], meta["min_std"])

        def critic_loss(v: Params, b: Params = b, y: Tensor = y) -> Tensor:
            q1, q2 = _values(v, "critic", b["observations"], b["actions"])
            return ((q1 - y) ** 2 + (q2 - y) ** 2).mean()

        def actor_loss(v: Params, b: Params = b, alpha: Tensor = alpha) -> Tensor:
            _, action, log_prob = _policy(v, b["observations"], b["eps_actor"], meta["min_std"])
            return (alpha * log_prob - _values(v, "critic", b["observations"], action).min(0).values).mean()

        def alpha_loss(v: Params, logp: Tensor = logp) -> Tensor:
            return (-v["log_alpha/value"].exp() * (logp + meta["target_entropy"])).mean()

        logged = {
            "critic_loss": critic_loss(p), "actor_loss": actor_loss(p), "alpha_loss": alpha_loss(p), "alpha": alpha,
            "q": q[0].mean(), "q_max": q[0].max(), "logp": logp.mean(),
        }  # fmt: skip
        if furl:
            logged["rvlm_reward"] = reward.mean()
        out.update({f"step{k}/out/{n}": v for n, v in logged.items()})
        new = dict(p)
        for part, loss in (("actor", actor_loss), ("critic/", critic_loss), ("log_alpha", alpha_loss)):
            new.update(adams[part].step(p, loss, [n for n in p if n.startswith(part)]))
        for name in p:
            if name.startswith("critic_target/"):
                own = new[name.replace("critic_target/", "critic/")]
                new[name] = meta["tau"] * own + (1 - meta["tau"]) * p[name]
        p = new
        if k in (0, meta["steps"] - 1):
            out.update({f"after{k}/{n}": v for n, v in p.items()})
    return {**out, "meta": meta}


def _actor(rng: np.random.Generator) -> dict[str, Any]:
    p = _agent(rng)
    obs, eps = (torch.tensor(rng.normal(size=(10, n)).astype(np.float32)).double() for n in (OBS, ACTION))
    mean, action, log_prob = _policy(p, obs, eps, META["min_std"])
    meta = {"min_std": META["min_std"], "hidden_dims": HIDDEN}
    out = {"observations": obs, "eps": eps, "mean_action": mean, "sampled_action": action, "log_prob": log_prob}
    return {**{f"init/{n}": v for n, v in p.items()}, **out, "meta": meta}


def _cosine(p: Params, frames: Tensor, text: Tensor) -> Tensor:
    def head(which: str, x: Tensor) -> Tensor:
        h = _relu(x @ p[f"{which}/Dense_0/kernel"] + p[f"{which}/Dense_0/bias"])
        return h @ p[f"{which}/Dense_1/kernel"] + p[f"{which}/Dense_1/bias"]

    image, sentence = head("image_encoder", frames), head("text_encoder", text)
    return (image * sentence).sum(1) / (image.norm(dim=1) * sentence.norm(dim=1))


def _heads(rng: np.random.Generator, goal: bool) -> dict[str, Any]:
    meta, batch = dict(HEAD_META), HEAD_META["batch_size"]
    p: Params = {}
    for name in ("text_encoder", "image_encoder"):
        p.update(_layers(rng, f"{name}/", [WIDTH, HEAD_HIDDEN, HEAD_WIDTH], ""))
    text = torch.tensor(rng.normal(size=(1, WIDTH)).astype(np.float32)).double()
    out: dict[str, Any] = {**{f"init/{n}": v for n, v in p.items()}, "text_embedding": text}
    adam, margin = _Adam(meta["lr"]), meta["margin"]

    def frames() -> Tensor:
        return torch.tensor(rng.normal(size=(batch, WIDTH)).astype(np.float32)).double()

    for k in range(meta["steps"]):
        logged: Params = {}
        if goal:
            x, d = frames(), torch.tensor(rng.uniform(0, 2, batch).astype(np.float32)).double()
            mask = torch.tensor(
                [[float(np.float32(a) < np.float32(b) - np.float32(meta["l2_margin"])) for b in d] for a in d]
            ).double()
            out.update({f"step{k}/embeddings": x, f"step{k}/goal_distances": d, f"step{k}/masks": mask})

            def goal_loss(v: Params, x: Tensor = x, mask: Tensor = mask) -> Tensor:
                c = _cosine(v, x, text)
                return sum(
                    mask[i, j] * _relu(margin - (c[i] - c[j])) for i in range(batch) for j in range(batch) if mask[i, j]
                ) / torch.tensor(float(batch))

            logged["vlm_rewards"], logged["pos_loss"] = _cosine(p, x, text), goal_loss(p)
            loss: Callable[[Params], Tensor] = goal_loss
        else:
            pos, lag, neg = frames(), frames(), frames()
            for name, x in (("pos", pos), ("neg", neg), ("lag", lag)):
                out[f"step{k}/{name}_embeddings"] = x
            cos = {n: _cosine(p, x, text) for n, x in (("pos", pos), ("neg", neg), ("lag", lag))}
            out[f"step{k}/reward_before"] = cos["pos"]
            for n, c in cos.items():
                logged.update({f"{n}_cosine": c.mean(), f"{n}_cosine_max": c.max(), f"{n}_cosine_min": c.min()})
            for n, c in (("neg", cos["neg"]), ("pos", cos["lag"])):
                gate = (c - cos["pos"] + margin > 0).double()
                gated = gate * (c - cos["pos"])
                logged.update({f"{n}_loss": gated.mean(), f"{n}_loss_max": gated.max(), f"{n}_num": gate.sum()})

            def success_loss(v: Params, pos: Tensor = pos, lag: Tensor = lag, neg: Tensor = neg) -> Tensor:
                own, total = _cosine(v, pos, text), torch.zeros((), dtype=torch.float64)
                for other in (neg, lag):
                    difference = _cosine(v, other, text) - own
                    total = total + torch.where(difference + margin > 0, difference, 0.0).mean()
                return total

            loss = success_loss
        out.update({f"step{k}/out/{n}": v for n, v in logged.items()})
        p = adam.step(p, loss, list(p))
        if k in (0, meta["steps"] - 1):
            out.update({f"after{k}/{n}": v for n, v in p.items()})
    if not goal:
        del meta["l2_margin"]
    return {**out, "meta": meta}


class _Ring:
    """A ring as the published code keeps it: contents, size and the place of the next entry."""

    def __init__(self, capacity: int) -> None:
        self.content = np.zeros(capacity, np.int64)
        self.size = self.next = 0

    def add(self, value: int) -> int:
        place = self.next
        self.content[place] = value
        self.next = (place + 1) % len(self.content)
        self.size = min(self.size + 1, len(self.content))
        return place


def _memory(rng: np.random.Generator) -> dict[str, Any]:
    meta, length = MEMORY_META, MEMORY_META["episode_length"]
    positive, negative, valid = (_Ring(meta["capacity"]) for _ in range(3))
    out: dict[str, Any] = {}
    for episode in range(meta["episodes"]):
        success = np.zeros(length, np.int64)
        if episode % 3:
            first = int(rng.integers(0, length))
            success[first : first + int(rng.integers(1, length))] = 1
            if first + 4 < length:
                success[-1] = int(rng.integers(0, 2))
        frames = np.arange(length) + episode * length
        if not success.any():
            for frame in frames:
                negative.add(frame)
        else:
            left = deque(range(length))
            while not success[left[0]]:
                place, index = positive.add(frames[left[0]]), left.popleft()
                if index >= meta["gap"]:
                    valid.add(place)
            while left and success[left[0]]:
                place, index = positive.add(frames[left[0]]), left.popleft()
                if index >= meta["gap"]:
                    valid.add(place)
        rings = (positive, negative, valid)
        out[f"ep{episode}/success"] = success
        out[f"ep{episode}/embeddings"] = np.repeat(frames[:, None], 6, 1).astype(np.float32)
        out[f"ep{episode}/pos_ids"] = positive.content.copy()
        out[f"ep{episode}/neg_ids"] = negative.content.copy()
        out[f"ep{episode}/valid_idxes"] = valid.content.astype(np.int32)
        out[f"ep{episode}/sizes"] = np.array([r.size for r in rings] + [r.next for r in rings])
    valid_index, negative_index = rng.integers(0, valid.size, 50), rng.integers(0, negative.size, 50)
    places = valid.content[valid_index]
    out.update(
        sample_valid_idx=valid_index,
        sample_neg_idx=negative_index,
        sample_pos=positive.content[places],
        sample_lag=positive.content[(places - meta["gap"]) % valid.size],
        sample_neg=negative.content[negative_index],
    )
    return {**out, "meta": meta}


def _relay(rng: np.random.Generator) -> dict[str, Any]:
    rows = []
    for episode in range(7):
        turn, acts = int(rng.choice(RELAY_META["relay_steps"])), episode % 2
        for step in range(120):
            if step and step % turn == 0:
                acts = 1 - acts
            rows.append((episode, step, turn, acts))
    columns = np.array(rows).T
    return {**dict(zip(("episode", "episode_step", "relay_step", "acts"), columns, strict=True)), "meta": RELAY_META}


def write(folder: Path, seed: int = 0) -> None:
    """Write all seven files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    recordings = {
        "actor": _actor(rng),
        "sac_update": _sac(rng, furl=False),
        "furl_update": _sac(rng, furl=True),
        "reward_goal": _heads(rng, goal=True),
        "reward_success": _heads(rng, goal=False),
        "embedding_memory": _memory(rng),
        "relay": _relay(rng),
    }
    for name, arrays in recordings.items():
        arrays = {n: v.detach().float().numpy() if isinstance(v, Tensor) else v for n, v in arrays.items()}
        np.savez(folder / f"{name}.npz", **{**arrays, "meta": json.dumps(arrays["meta"])})


if __name__ == "__main__":
    write(Path(sys.argv[1]))
