"""Figures of a report and of a probe."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from furl_lightning.analysis.probe import DISTANCE, ScoredEpisode
from furl_lightning.analysis.report import Method, Totals
from furl_lightning.envs.episodes import Manner

MANNER_COLOURS: dict[Manner, str] = {
    "expert": "tab:blue",
    "noisy": "tab:cyan",
    "interrupted": "tab:green",
    "halted": "tab:orange",
    "random": "tab:red",
}
FRAMES = 6
"""Of the first expert's, above a probe's curves."""


def draw_curves(
    methods: Sequence[Method],
    tasks: Sequence[str],
    training: bool = False,
    published: Mapping[str, float] = MappingProxyType({}),
    mean_alone: bool = False,
) -> Figure:
    """Success at evaluations, or of training episodes: a panel for each task and one for their mean.

    Args:
        methods: a colour each.
        tasks: a panel each.
        training: of training episodes.
        published: means that others published, by name: dotted lines in the panel of the mean.
        mean_alone: no panels of single tasks.
    """
    panels: list[tuple[str, Sequence[str]]] = [(task, [task]) for task in tasks if not mean_alone]
    if len(tasks) > 1:
        panels.append(("mean over tasks", tasks))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(5.5, 3.2 * columns), 2.9 * lines + 0.6), dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axis, (title, group) in zip(axes, panels, strict=False):
        for number, method in enumerate(methods):
            _draw_method(axis, method, group, training, f"C{number}")
        for name, rate in published.items() if group is tasks else ():
            axis.axhline(rate, color="grey", ls=":", lw=1)
            axis.annotate(
                name, (0.01, rate), xycoords=("axes fraction", "data"), va="bottom", fontsize=7, color="dimgrey"
            )
        axis.set_title(title, fontsize=10)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0"))
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.supxlabel("environment steps per agent", fontsize=10)
    figure.supylabel("training episodes in success" if training else "success", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods), fontsize=9)
    return figure


def _draw_method(axis: Axes, method: Method, tasks: Sequence[str], training: bool, colour: str) -> None:
    """The mean over seeds and tasks with its band, and each seed where there is one task."""
    curve = method.curve(tasks, training)
    if len(tasks) == 1:
        for agent in method.agents(tasks[0]):
            success = method.training(agent) if training else method.success(agent)
            axis.plot(sorted(success), [success[steps] for steps in sorted(success)], color=colour, lw=0.8, alpha=0.35)
    axis.plot(curve.steps, curve.mean, "o-", ms=3, color=colour, label=method.name)
    band = [(steps, *interval) for steps, interval in zip(curve.steps, curve.band, strict=True) if interval]
    if band:
        steps, low, high = zip(*band, strict=True)
        axis.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)


def draw_aggregates(methods: Sequence[Method], totals: Totals) -> Figure:
    """Mean and interquartile mean of each method with their intervals."""
    figure = Figure(figsize=(8, 1.1 + 0.4 * len(methods)), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for number, method in enumerate(methods):
        total = totals[method]
        if total is None:
            continue
        for axis, value, interval in (
            (axes[0], total.mean, total.mean_95),
            (axes[1], total.interquartile_mean, total.interquartile_mean_95),
        ):
            if interval is not None:
                low, high = interval
                axis.barh(number, high - low, left=low, color=f"C{number}", alpha=0.35, height=0.6)
            axis.plot([value, value], [number - 0.3, number + 0.3], color=f"C{number}", lw=2.5)
    axes[0].set_yticks(range(len(methods)), [method.name for method in methods])
    for axis, title in zip(axes, ("mean", "interquartile mean"), strict=True):
        axis.set_title(f"{title} of success", fontsize=10)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(len(methods) - 0.4, -0.6)  # the first on top
        axis.grid(alpha=0.3, axis="x")
    return figure


def draw_rewards(
    title: str,
    rewards: Mapping[str, Sequence[tuple[Manner, ScoredEpisode]]],
    measures: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Reward against time for one task's episodes, a panel for each kind of reward; above, the first expert's frames.

    Args:
        title: of the figure.
        rewards: by kind of reward, the zero-shot one first: the episodes, an expert's first.
        measures: the task's measures of each kind of reward.
    """
    figure = Figure(figsize=(max(10, 5 * len(rewards)), 5.6), dpi=100, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.7, 3.9])
    frames, curves = parts
    _, expert = next(iter(rewards.values()))[0]
    last = len(expert.reward) - 1 if expert.success is None else expert.success
    for axis, i in zip(frames.subplots(1, FRAMES), np.linspace(0, last, FRAMES).round().astype(int), strict=True):
        axis.imshow(expert.episode.frames[i])
        axis.set_title(f"step {expert.episode.step[i]}: {expert.reward[i]:+.2f}", fontsize=9)
        axis.axis("off")
    frames.suptitle(title, fontsize=11)
    panels = curves.subplots(1, len(rewards), squeeze=False)[0]
    for axis, (kind, episodes) in zip(panels, rewards.items(), strict=True):
        for manner, scored in reversed(episodes):  # experts on top
            expert_lines = manner == "expert"
            axis.plot(
                scored.episode.step,
                scored.reward,
                color=MANNER_COLOURS[manner],
                lw=2 if expert_lines else 1,
                alpha=1 if expert_lines else 0.6,
            )
            if scored.success is not None:
                star = scored.episode.step[scored.success], scored.reward[scored.success]
                axis.plot(*star, "*", color=MANNER_COLOURS[manner], ms=11, mec="k")
        values = measures[kind]
        axis.set_title(
            f"{kind}: rank correlation {values['correlation']:.2f}, "
            f"wrong pairs {values['wrong_pairs']:.0%}, gap {values['gap']:+.2f}",
            fontsize=10,
        )
        axis.set_xlabel("environment step (star: first success)")
        axis.set_ylabel("minus L2 distance of embeddings" if kind == DISTANCE else "VLM reward (cosine)")
        axis.grid(alpha=0.3)
    legend = [Line2D([], [], color=colour, label=manner) for manner, colour in MANNER_COLOURS.items()]
    panels[0].legend(handles=legend, fontsize=8)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's contents."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
