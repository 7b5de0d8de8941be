"""Make the tables and figures of README.md and docs/findings.md anew from ``results/``.

    python scripts/evidence_report.py

A page has each part between ``<!-- evidence NAME -->`` and ``<!-- /evidence NAME -->``; :data:`PARTS` says what
makes it. Curves and groups are those of furl-report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from furl_lightning.analysis.figures import draw_curves, png
from furl_lightning.analysis.report import (
    PUBLISHED_DENSE,
    PUBLISHED_STEPS,
    Curve,
    Method,
    deviation,
    group,
    published_means,
    tasks_of,
)
from furl_lightning.runs.read import Run, method, read
from furl_lightning.tasks import TASK_SETS, Agent

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("FuRL", "SAC", "VLM", "Relay")
LATEST = 10_000
"""Environment steps before an evaluation, of which training episodes are counted beside it."""
ON_THE_WAY = 20_000
"""Environment steps from one column to the next where a table shows how a run went on."""
EASY = "drawer-close"
"""The task that an untrained policy solves now and then."""


def markdown(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> str:
    """Rows by their names; a cell that a row lacks is a dash."""
    lines = [[corner, *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(cells.get(column, "-") for column in columns)] for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latest(run: Run, agents: Sequence[Agent], steps: int) -> list[float]:
    """Success of the training episodes that ended in the :data:`LATEST` steps up to ``steps``."""
    return [v for agent in agents for at, v in run.training[agent].items() if steps - LATEST < at <= steps]


def kept(folder: Path) -> list[Run]:
    """All runs of a folder of ``results/``, by their names."""
    return [read(path.parent) for path in sorted(folder.glob("*/source.yaml"))]


# -- MT10


JUDGED = {"FuRL": "FuRL+", **{name: f"{name}, the same learner" for name in ("SAC", "Relay", "Align", "VLM")}}
JUDGED["FuRL without goal image"] = "FuRL+ without goal image"
"""What methods are called that learn as conf/mt10_plus.yaml does."""


def judged(results: Path) -> list[Method]:
    """The methods of ``results/mt10/``, FuRL+ first; a seed is a run."""
    runs = sorted(kept(results / "mt10"), key=lambda run: list(JUDGED).index(method(run.settings)))
    return group(runs, [JUDGED[method(run.settings)] for run in runs])


def mt10(results: Path, pictures: Path) -> str:
    """Success over steps, the mean of MT10, and the table task x method."""
    methods = judged(results)
    steps = min(run.evaluated for each in methods for run in each.runs)
    tasks = list(TASK_SETS["mt10"])
    rows = {task: {each.name: _seeds(each, task, steps) for each in methods} for task in tasks}
    without = [task for task in tasks if task != EASY]
    rows["mean"] = {each.name: _mean(each, tasks, steps) for each in methods}
    rows[f"mean without {EASY}"] = {each.name: _mean(each, without, steps) for each in methods}
    curves = draw_curves(methods, tasks, published=published_means(methods, tasks), mean_alone=True)
    (pictures / "evidence-mt10.png").write_bytes(png(curves))
    seeds = ", ".join(str(seed) for seed in sorted(methods[0].seeds()))
    runs = [run for each in methods for run in each.runs]
    return "\n\n".join(
        [
            "![mean success over MT10 against environment steps](docs/pictures/evidence-mt10.png)",
            markdown(f"fixed goals, {steps:,} steps", [each.name for each in methods], rows),
            f"Seeds whose evaluation at {steps:,} steps is a success (one episode, as every episode of a deterministic "
            f"policy is the same), then how many of the training episodes of the {LATEST:,} steps before ended in "
            f"success, in FuRL+ partly with its SAC agent. Seeds {seeds}; {_core_hours(runs):.1f} core-hours in all.",
        ]
    )


def mt10_means(results: Path, pictures: Path) -> str:
    """The mean of MT10 on the way."""
    tasks = list(TASK_SETS["mt10"])
    rows: dict[str, dict[str, str]] = {}
    for each in judged(results):
        shown = [steps for steps in each.curve(tasks).steps if steps % ON_THE_WAY == 0]
        rows[each.name] = {f"{steps:,}": _mean(each, tasks, steps) for steps in shown}
    return markdown("mean of MT10 after", max(map(list, rows.values()), key=len), rows)


def mt10_tasks(results: Path, pictures: Path) -> str:
    """Training success over steps on each task."""
    methods = judged(results)
    curves = draw_curves(methods, TASK_SETS["mt10"], training=True)
    (pictures / "evidence-mt10-tasks.png").write_bytes(png(curves))
    return "![training episodes in success on each task of MT10](pictures/evidence-mt10-tasks.png)"


def mt10_held(results: Path, pictures: Path) -> str:
    """When each agent's success was first held: the end of the first ten training episodes of which eight were one."""
    rows: dict[str, dict[str, str]] = {task: {} for task in TASK_SETS["mt10"]}
    columns = []
    for each in judged(results):
        for run in sorted(each.runs, key=lambda run: run.agents[0].seed):
            columns.append(f"{each.name}, {run.agents[0].seed}")
            for agent in run.agents:
                rows[agent.task][columns[-1]] = _held(run.training[agent])
    return markdown("steps until success is held", columns, rows)


def _held(training: Mapping[int, float], of: int = 10, least: int = 8) -> str:
    ends = sorted(training)
    windows = (ends[i : i + of] for i in range(len(ends) - of + 1))
    first = next((window[-1] for window in windows if sum(training[end] for end in window) >= least), None)
    return "-" if first is None else f"{first:,}"


def _episodes(each: Method, tasks: Sequence[str], steps: int) -> list[float]:
    return [v for run in each.runs for v in latest(run, [a for a in run.agents if a.task in tasks], steps)]


def _seeds(each: Method, task: str, steps: int) -> str:
    scores = [each.success(agent)[steps] for agent in each.agents(task)]
    episodes = _episodes(each, [task], steps)
    return f"{sum(score > 0.5 for score in scores)} of {len(scores)}; {sum(episodes):.0f} of {len(episodes)}"


def _mean(each: Method, tasks: Sequence[str], steps: int) -> str:
    curve = each.curve(tasks)
    evaluated = curve.mean[curve.steps.index(steps)]
    return f"**{100 * evaluated:.0f} %**; {100 * np.mean(_episodes(each, tasks, steps)):.0f} %"


def quick(results: Path, pictures: Path) -> str:
    """Success over steps of conf/quick.yaml's seeds."""
    runs = kept(results / "quick")
    methods = group(runs, ["FuRL+"] * len(runs))
    (pictures / "evidence-quick.png").write_bytes(png(draw_curves(methods, [EASY])))
    return f"![success of {len(methods[0].seeds())} seeds on {EASY}](docs/pictures/evidence-quick.png)"


# -- the recipe


VARIANTS = {
    "all": "action repeat 2, n-step returns of 3, a quarter from successes, `l2_margin` 0.1",
    "no_repeat": "less action repeat",
    "no_n_step": "less n-step returns",
    "no_share": "less the quarter from successes",
    "no_l2_margin": "less `l2_margin` 0.1 (then 0.25)",
    "none": "less all four: `conf/learner/fast.yaml` alone",
    "updates_2": "and two updates an action in place of one",
    "n_step_5": "n-step returns of 5",
    "pink": "and pink noise",
    "turns_500": "and turns of whole episodes in the relay",
    "turns_50": "and turns of 50 steps in the relay",
    "potential": "and potential differences in place of the score, `rho` 5",
    "fade": "and a score that fades with an agent's success",
    "furl_no_goal": "less the goal image",
    "align": "less the relay",
    "goal_distance": "the distance to the goal image in place of the heads",
    "relay": "Relay: the zero-shot score in place of the heads",
    "vlm": "the zero-shot score, without the relay",
    "sac": "SAC, without a VLM",
}
"""Of ``results/screen/``, in the order of the table: FuRL+'s parts, changes to it, then methods with its learner."""


def screen(results: Path, pictures: Path) -> str:
    """What each part is worth on the screening tasks, one seed: training episodes in success, and the first one."""
    runs = {run.folder.name: run for run in kept(results / "screen")}
    if unknown := runs.keys() - VARIANTS.keys():
        raise SystemExit(f"results/screen has runs that no row is for: {', '.join(sorted(unknown))}")
    steps = min(run.reached for run in runs.values()) // 5_000 * 5_000
    rows: dict[str, dict[str, str]] = {}
    tasks = [agent.task for agent in runs["all"].agents]
    for name, label in VARIANTS.items():
        if name in runs:
            run, cells = runs[name], {}
            for agent in run.agents:
                first = next((at for at, v in sorted(run.training[agent].items()) if v), None)
                own = latest(run, [agent], steps)
                cells[agent.task] = f"{sum(own):.0f}" + (f" ({first:,})" if first and first <= steps else "")
            own = latest(run, run.agents, steps)
            rows[label] = {**cells, "all four": f"{sum(own):.0f} of {len(own)}"}
    return markdown(f"in the last {LATEST:,} of {steps:,} steps", [*tasks, "all four"], rows)


def dense(results: Path, pictures: Path) -> str:
    """Success of SAC with FuRL+'s learner and dense reward, on the way, beside the published mean."""
    runs = kept(results / "dense")
    (own,) = group(runs, ["SAC, FuRL+'s learner"] * len(runs))
    tasks = list(TASK_SETS["mt10"])
    means = _rates(own.curve(tasks))
    rows = {task: _rates(own.curve([task])) for task in tasks}
    rows["mean"] = {steps: f"**{mean}**" for steps, mean in means.items()}
    for name, rates in PUBLISHED_DENSE.items():
        at = zip(PUBLISHED_STEPS, rates, strict=True)
        rows[f"mean, {name}, published"] = {f"{steps:,}": f"{100 * rate:.0f}" for steps, rate in at}
    return markdown("success in % after", list(means), rows)


def _rates(curve: Curve) -> dict[str, str]:
    evaluations = zip(curve.steps, curve.mean, strict=True)
    return {f"{steps:,}": f"{100 * mean:.0f}" for steps, mean in evaluations if steps % ON_THE_WAY == 0}


# -- four tasks with the embedded model of earlier versions


def alike(runs: Sequence[Run]) -> list[list[Method]]:
    """Runs of one task each, as methods, together where tasks were run with the same methods; most methods first."""
    names: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        names[run.agents[0].task].add(method(run.settings))
    parts: dict[frozenset[str], list[Run]] = defaultdict(list)
    for run in runs:
        parts[frozenset(names[run.agents[0].task])].append(run)
    found = [group(part, [method(run.settings) for run in part]) for part in parts.values()]
    return sorted(found, key=lambda methods: -len(methods))


def compare(runs: Sequence[Run], steps: int) -> dict[str, str]:
    """Each method's success on one task after so many steps, of those that have come so far."""
    cells = {}
    for run in runs:
        if run.evaluated >= steps:
            scores = np.array([evaluations[steps] for evaluations in run.success.values()])
            episodes = latest(run, run.agents, steps)
            success = f"{100 * scores.mean():.0f} ± {100 * deviation(scores):.0f} ({len(scores)})"
            cells[method(run.settings)] = f"{success}, {sum(episodes):.0f} of {len(episodes)}"
    return cells


def _place(run: Run) -> tuple[int, int]:
    """Methods have the same colour in every figure, tasks an order of their own."""
    return METHODS.index(method(run.settings)), TASK_SETS["mt10"].index(run.agents[0].task)


def four_tasks(results: Path, pictures: Path) -> str:
    """Methods after equal numbers of steps; one that has not come so far has a dash there."""
    runs = sorted(kept(results / "fixed"), key=_place)
    rows = {}
    for task in TASK_SETS["mt10"]:
        own = [run for run in runs if run.agents[0].task == task]
        for steps in sorted({run.evaluated for run in own}):
            rows[f"{task}, {steps:,}"] = compare(own, steps)
    parts = [
        markdown("fixed goals, steps", METHODS, rows),
        "Success in % at that step ± standard deviation over seeds (their number), one episode; then how many "
        f"training episodes of all seeds ended in success in the {LATEST:,} steps before, in FuRL and Relay partly "
        "with the SAC agent.",
    ]
    for number, methods in enumerate(alike(runs), 1):
        if len(methods) > 1:
            picture, tasks = f"evidence-fixed-{number}.png", tasks_of(methods)
            (pictures / picture).write_bytes(png(draw_curves(methods, tasks, training=True)))
            parts.append(f"![training success on {', '.join(tasks)}, fixed goals](pictures/{picture})")
    return "\n\n".join(parts)


def light(results: Path, pictures: Path) -> str:
    """Training success of FuRL with the earlier and with the present embedded model, and of SAC."""
    names = {"light/furl": "FuRL, Embedded", "fixed/furl": "FuRL, EmbeddedCLIP", "fixed/sac": "SAC"}
    tasks = [path.name.removeprefix("furl-") for path in sorted((results / "light").glob("furl-*"))]
    folders = [(results / f"{kind}-{task}", name) for kind, name in names.items() for task in tasks]
    methods = group([read(folder) for folder, _ in folders], [name for _, name in folders])
    (pictures / "evidence-light.png").write_bytes(png(draw_curves(methods, tasks, training=True)))
    return "![training episodes in success, FuRL with each embedded model, and SAC](pictures/evidence-light.png)"


# -- what was run


def _core_hours(runs: Sequence[Run]) -> float:
    """Wall time of each times the processes that shared its work: the learner's and its workers."""
    return sum(run.seconds * (1 + run.settings["data"]["collection"]["num_workers"]) for run in runs) / 3_600


def run_list(results: Path, pictures: Path) -> str:
    """How much each folder of results stands for, and by which commits."""
    rows = {}
    for folder in sorted({path.parent.parent for path in results.glob("*/*/source.yaml")}):
        runs = kept(folder)
        calls = [call for run in runs for call in yaml.safe_load((run.folder / "source.yaml").read_text())]
        seeds = sorted({agent.seed for run in runs for agent in run.agents})
        steps = sorted({run.reached for run in runs})
        rows[f"`{folder.name}/`"] = {
            "runs": f"{len(runs)}",
            "tasks": f"{len({agent.task for run in runs for agent in run.agents})}",
            "seeds": ", ".join(str(seed) for seed in seeds),
            "environment steps": f"{steps[0]:,}" + (f" to {steps[-1]:,}" if steps[1:] else ""),
            "evaluations": f"{sum(len(own) for run in runs for own in run.success.values()):,}",
            "training episodes": f"{sum(len(own) for run in runs for own in run.training.values()):,}",
            "core-hours": f"{_core_hours(runs):.1f}",
            "commits": ", ".join(f"`{commit}`" for commit in sorted({call["commit"][:7] for call in calls})),
        }
    return markdown("folder of `results/`", list(next(iter(rows.values()))), rows)


PARTS: dict[str, dict[str, Callable[[Path, Path], str]]] = {
    "README.md": {"mt10": mt10, "quick": quick},
    "docs/findings.md": {
        "mt10-means": mt10_means,
        "mt10-held": mt10_held,
        "mt10-tasks": mt10_tasks,
        "screen": screen,
        "dense": dense,
        "four-tasks": four_tasks,
        "light": light,
        "runs": run_list,
    },
}
"""What makes each part of a page, in Markdown, from the results; figures are written into the folder of pictures."""


def put(page: str, name: str, part: str) -> str:
    """The page with another part of this name.

    Raises:
        SystemExit: there is no such part.
    """
    begin, end = f"<!-- evidence {name} -->\n", f"<!-- /evidence {name} -->\n"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"there is no part between {begin.strip()} and {end.strip()}")
    return before + begin + part + "\n" + end + after


def make(results: Path, pictures: Path) -> dict[str, str]:
    """The pages as they are to be; their figures are written into a folder."""
    pages = {}
    for name, parts in PARTS.items():
        pages[name] = (ROOT / name).read_text()
        for part, write in parts.items():
            pages[name] = put(pages[name], part, write(results, pictures))
    return pages


def main() -> None:
    """Write the pages and their figures; figures that no part has are removed."""
    pictures = ROOT / "docs/pictures"
    for old in pictures.glob("evidence-*.png"):
        old.unlink()
    for name, text in make(ROOT / "results", pictures).items():
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
