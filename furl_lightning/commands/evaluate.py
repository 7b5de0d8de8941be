"""``furl-eval``: success and return of a checkpoint's agents, with intervals, and a video of each task."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from furl_lightning.analysis.intervals import stratified_bootstrap, task_mean, wilson
from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.data.policy import DeterministicPolicy, SomeAgents
from furl_lightning.tasks import EPISODE_STEPS, UnknownTask
from furl_lightning.training.evaluation import Evaluator
from furl_lightning.training.film import Studio, pictures, strip, write_video
from furl_lightning.training.trained import Trained, load
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM

Protocol = Literal["paper", "full"]
EPISODES: dict[Protocol, int] = {"paper": 10, "full": 50}
"""With random goals. With fixed ones every episode of a deterministic policy is the same, so there is one."""
EVERY = 4
"""Environment steps between a video's frames."""
FPS = 20


def evaluate(argv: Sequence[str] | None = None) -> int:
    """``furl-eval``; returns the exit status."""
    return answer("furl-eval", _evaluate, argv)


def _evaluate(argv: list[str]) -> int:
    flags = parser("furl-eval", "Evaluate the deterministic VLM agents of a checkpoint of furl-fit.")
    flags.add_argument("--ckpt_path", type=str, required=True, help="A checkpoint, or a run's folder for its last.")
    flags.add_argument(
        "--protocol",
        type=Protocol,
        default="paper",
        help="paper: 1 episode with fixed, 10 with random goals; full: 50.",
    )
    flags.add_argument(
        "--episodes", type=int | None, default=None, help="Episodes an agent, in place of the protocol's."
    )
    flags.add_argument("--task", nargs="+", type=str, default=None, help="Tasks to evaluate (default: the run's).")
    flags.add_argument("--video", action="store_true", help="Film one episode of each task, with the rewards drawn in.")
    flags.add_argument("--vlm", type=VLM | None, default=None, help="The run's VLM, where it lies elsewhere here.")
    flags.add_argument("--num_workers", type=int, default=0, help="Processes that host the environments.")
    flags.add_argument("--out", type=str | None, default=None, help="Folder for eval.json and videos/ (the run's).")
    given = parse(flags, argv)
    if given.episodes is not None and given.episodes < 1:
        raise BadInput(f"episodes must be at least 1, not {given.episodes}")
    if given.num_workers < 0:
        raise BadInput(f"num_workers must not be negative, but is {given.num_workers}")
    trained = load(Path(given.ckpt_path), given.vlm)
    try:
        rows = trained.rows(names(given.task))
    except UnknownTask as error:
        raise BadInput(str(error)) from error
    out = Path(given.out) if given.out else trained.folder
    if out.exists() and not (out.is_dir() and os.access(out, os.W_OK)):
        raise BadInput(f"{out} is no folder that can be written to; name another with --out")

    asked = given.episodes or EPISODES[given.protocol]
    episodes = 1 if trained.data.goal == "fixed" else asked
    results = measure(trained, rows, episodes, given.num_workers)
    report = summary(trained, rows, results)
    print(table(report))
    if episodes < asked and (given.episodes is not None or given.protocol == "full"):
        print("fixed goals and a deterministic policy: every episode is the same, so each agent played one")
    out.mkdir(parents=True, exist_ok=True)
    part = out / "eval.json.part"
    part.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(part, out / "eval.json")
    print(f"written: {out / 'eval.json'}")
    if given.video:
        for path in film(trained, rows, out / "videos"):
            print(f"written: {path}")
    return 0


def measure(trained: Trained, rows: Sequence[int], episodes: int, num_workers: int = 0) -> dict[str, Tensor]:
    """Results of the agents at ``rows``, each [K, episodes]; see :meth:`Evaluator.episodes`."""
    agents = [trained.agents[row] for row in rows]
    evaluator = Evaluator(agents, trained.data.settings, num_workers, trained.data.reward_kind, trained.data.frame_size)
    try:
        policy = SomeAgents(
            DeterministicPolicy(trained.module.evaluated_agent, trained.data.frame_stack()), rows, len(trained.agents)
        )
        results = evaluator.episodes(policy, episodes)
        assert results is not None
        return results
    finally:
        evaluator.close()


def summary(trained: Trained, rows: Sequence[int], results: dict[str, Tensor]) -> dict[str, Any]:
    """What eval.json says: each agent, each task and the mean, with 95 % intervals."""
    agents = [trained.agents[row] for row in rows]
    tasks: dict[str, list[int]] = {}
    for place, agent in enumerate(agents):
        tasks.setdefault(agent.task, []).append(place)
    return {
        "checkpoint": str(trained.checkpoint),
        "env_steps": trained.env_steps,
        "goal": trained.data.goal,
        "reward": trained.data.reward_kind,
        "episodes_per_agent": int(results["success"].shape[1]),
        "intervals": "95 %: success by Wilson's score, return by percentile bootstrap within tasks, over all episodes",
        "tasks": {task: _pooled(results, [places]) for task, places in tasks.items()},
        "mean": _pooled(results, list(tasks.values())),
        "agents": {
            str(agent): {name: values[place].tolist() for name, values in results.items()}
            for place, agent in enumerate(agents)
        },
    }


def _pooled(results: dict[str, Tensor], tasks: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Over all episodes of some tasks, each given as its agents' places; all agents have as many."""
    places = [place for task in tasks for place in task]
    pooled: dict[str, Any] = {"episodes": results["success"][places].numel()}
    for name, values in results.items():
        pooled[name] = float(values[places].mean())
        if name == "return":
            pooled["return_95"] = stratified_bootstrap(
                [values[list(task)].flatten().numpy() for task in tasks], task_mean
            )
        else:
            pooled[f"{name}_95"] = wilson(int(values[places].sum()), pooled["episodes"])
    return pooled


def table(report: dict[str, Any]) -> str:
    """The summary as text."""
    lines = [
        f"{report['checkpoint']}: {report['env_steps']:,} environment steps, {report['goal']} goals, "
        f"{report['episodes_per_agent']} episode(s) for each agent"
    ]
    width = max(len(task) for task in [*report["tasks"], "mean"])
    lines.append(f"{'task':<{width}}  episodes  success at last step  success at any step  return")
    for task, row in [*report["tasks"].items(), ("mean", report["mean"])]:
        success, success_any = (
            f"{row[name]:6.1%} ({row[name + '_95'][0]:.0%} - {row[name + '_95'][1]:.0%})"
            for name in ("success", "success_any")
        )
        interval = row["return_95"]
        spread = f" ({interval[0]:.0f} to {interval[1]:.0f})" if interval else ""
        lines.append(
            f"{task:<{width}}  {row['episodes']:8d}  {success:>20}  {success_any:>19}  {row['return']:.1f}{spread}"
        )
    lines.append(f"in brackets {report['intervals']}")
    return "\n".join(lines)


def film(trained: Trained, rows: Sequence[int], folder: Path) -> list[Path]:
    """One episode of each task (its first agent's): a video and a film strip; returns the files."""
    firsts = list({trained.agents[row].task: row for row in reversed(rows)}.values())[::-1]
    written = []
    for row in firsts:
        studio = Studio(trained.module, trained.data, [row])
        try:
            shot = studio.film(row, range(0, EPISODE_STEPS + 1, EVERY))
        finally:
            studio.close()
        name = folder / str(shot.agent).replace("/", "-")
        written.append(write_video(name, pictures(shot), FPS))
        Image.fromarray(strip(shot)).save(name.with_suffix(".png"))
        written.append(name.with_suffix(".png"))
    return written
