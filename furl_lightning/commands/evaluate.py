"""``furl-eval``: success and return of a checkpoint's agents, with intervals, and a video of each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from furl_lightning.analysis.intervals import stratified_bootstrap, task_mean, wilson
from furl_lightning.commands.arguments import answer, names, parse, parser
from furl_lightning.commands.precision import warn_of_slow_bfloat16
from furl_lightning.data.policy import DeterministicPolicy, SomeAgents
from furl_lightning.training.evaluation import Evaluator
from furl_lightning.training.film import Studio, pictures, strip, write_video
from furl_lightning.training.trained import Trained, load
from furl_lightning.utils.durable import write_file
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import refuse_unwritable
from furl_lightning.utils.text_table import text_table
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
    options = parser("furl-eval", "Evaluate the deterministic VLM agents of a checkpoint of furl-fit.")
    options.add_argument("--ckpt_path", type=str, required=True, help="A checkpoint, or a run's folder for its last.")
    options.add_argument(
        "--protocol",
        type=Protocol,
        default="paper",
        help="paper: 1 episode with fixed, 10 with random goals; full: 50.",
    )
    options.add_argument(
        "--episodes", type=int | None, default=None, help="Episodes of each agent, in place of the protocol's."
    )
    options.add_argument("--task", nargs="+", type=str, default=None, help="Tasks to evaluate (default: the run's).")
    options.add_argument(
        "--video", action="store_true", help="Film an episode of each task, with the rewards drawn in."
    )
    options.add_argument("--vlm", type=VLM | None, default=None, help="The run's VLM, where it lies elsewhere here.")
    options.add_argument(
        "--simulator", type=str | None, default=None, help="The run's data.env.simulator, if your own."
    )
    options.add_argument("--num_workers", type=int, default=0, help="Processes that host the environments.")
    options.add_argument("--out", type=str | None, default=None, help="Folder for eval.json and videos/ (the run's).")
    arguments = parse(options, argv)
    if arguments.episodes is not None and arguments.episodes < 1:
        raise BadInput(f"episodes must be at least 1, not {arguments.episodes}")
    if arguments.num_workers < 0:
        raise BadInput(f"num_workers must not be negative, but is {arguments.num_workers}")
    trained = load(Path(arguments.ckpt_path), arguments.vlm, arguments.simulator)
    if arguments.video:  # nothing else of this is the VLM's work
        warn_of_slow_bfloat16(trained.module.vlm)
    rows = trained.rows(names(arguments.task))
    out = Path(arguments.out) if arguments.out else trained.folder
    refuse_unwritable(out, "--out")

    count = arguments.episodes or EPISODES[arguments.protocol]
    episodes = 1 if trained.data.env_settings.goal == "fixed" else count
    report = summary(trained, rows, measure(trained, rows, episodes, arguments.num_workers))
    text = json.dumps(report, indent=1) + "\n"
    write_file(out / "eval.json", lambda part: part.write_text(text))
    films = film(trained, rows, out / "videos") if arguments.video else []
    print(table(report))
    if episodes < count and (arguments.episodes is not None or arguments.protocol == "full"):
        print("fixed goals and a deterministic policy: every episode is the same, so each agent played one")
    for path in [out / "eval.json", *films]:
        print(f"written: {path}")
    return 0


def measure(trained: Trained, rows: Sequence[int], episodes: int, num_workers: int = 0) -> dict[str, Tensor]:
    """Results of the agents at ``rows``, each [K, episodes]; see :meth:`Evaluator.episodes`."""
    data, agents = trained.data, [trained.agents[row] for row in rows]
    timeout = data.collection_settings.worker_timeout
    evaluator = Evaluator(agents, data.simulators, num_workers, data.env_settings.reward, data.pixel_size, timeout)
    try:
        population = DeterministicPolicy(trained.module.built.evaluated_agent, data.frame_stack())
        results = evaluator.episodes(SomeAgents(population, rows, len(trained.agents)), episodes)
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
        "goal": trained.data.env_settings.goal,
        "reward": trained.data.env_settings.reward,
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
    title = (
        f"{report['checkpoint']}: {report['env_steps']:,} environment steps, {report['goal']} goals, "
        f"{report['episodes_per_agent']} episode(s) for each agent"
    )
    header = ["task", "episodes", "success at last step", "success at any step", "return"]
    rows = [
        [task, str(row["episodes"]), _rate(row, "success"), _rate(row, "success_any"), _return(row)]
        for task, row in [*report["tasks"].items(), ("mean", report["mean"])]
    ]
    return f"{text_table(header, rows, title, ruled=1)}\nin brackets {report['intervals']}"


def _rate(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_95"]
    return f"{row[name]:.1%} ({low:.0%} - {high:.0%})"


def _return(row: dict[str, Any]) -> str:
    interval = row["return_95"]
    return f"{row['return']:.1f}" + (f" ({interval[0]:.0f} to {interval[1]:.0f})" if interval else "")


def film(trained: Trained, rows: Sequence[int], folder: Path) -> list[Path]:
    """One episode of each task (its first agent's): a video and a film strip; returns the files."""
    first_rows: dict[str, int] = {}
    for row in rows:
        first_rows.setdefault(trained.agents[row].task, row)
    files = []
    for row in first_rows.values():
        studio = Studio(trained.module, trained.data, [row])
        try:
            episode = studio.film(row, range(0, trained.data.episode_steps + 1, EVERY))
        finally:
            studio.close()
        path = folder / str(episode.agent).replace("/", "-")
        files += [write_video(path, pictures(episode), FPS), path.with_suffix(".png")]
        Image.fromarray(strip(episode)).save(files[-1])
    return files
