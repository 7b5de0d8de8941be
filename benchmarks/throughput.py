"""Where a training step's time goes, against what this machine can do.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --agents 1,10,50 --vlm embedded,clip_b32,rn50 --device cuda --out gpu.json

Measures (a) the machine's own rates at the sizes that occur, (b) every part of a step, (c) whole runs of
furl-fit. A part's bound is its counted operations at the measured rate of float32 matrix products plus the
bytes that it cannot but move at the measured bandwidth; a collection's bound is bare stepping and rendering
shared among the cores. Models have their full size and random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tensordict import TensorDict
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging as library_logging

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import vlm as full_size
from furl_lightning.agents.optim import PopulationAdam
from furl_lightning.agents.transitions import Transitions
from furl_lightning.commands.fit import fit
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.population import PopulationEnv
from furl_lightning.envs.rendering import Renderer, close_gl
from furl_lightning.envs.simulator import ACTION_DIM, OBS_DIM, SimulatorSettings
from furl_lightning.method.learner import Batch, Learner
from furl_lightning.pictures import RenderQuality
from furl_lightning.randomness import Randomness
from furl_lightning.replay.buffer import ReplayBuffer
from furl_lightning.tasks import Agent, task_names
from furl_lightning.vlm import VLM, Embedded, EmbeddedCLIP
from furl_lightning.vlm.interface import Precision

VLMS = {"embedded": "embedded", "clip_b32": "clip", "rn50": "resnet"}
LIGHT, FAST, FULL = (
    SimulatorSettings(render="light", size=128),
    SimulatorSettings(render="fast"),
    SimulatorSettings(render="full"),
)
PICTURES = (LIGHT, SimulatorSettings(render="light", size=224), FAST, FULL)
QUALITIES: tuple[RenderQuality, ...] = ("light", "fast", "full")
BATCH = 256
WHOLE = "whole update, sampling and all"
HELD = 2_000
"""Steps in the replay buffer that is drawn from; it is larger than the processor's caches."""


@dataclass
class Row:
    """One measured part of a step: times in milliseconds."""

    agents: int
    vlm: str
    part: str
    time: float
    bound: float | None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Share of what the machine could do."""
        return None if self.bound is None else self.bound / self.time


class Bench:
    """Times things on one device.

    Args:
        device: cpu or cuda.
        seconds: for each part; the middle one of the calls that fit in counts.
        machine: in words.
        out: JSON file, written again with each row, so that being cut off loses none.
    """

    def __init__(self, device: torch.device, seconds: float, machine: str, out: Path | None) -> None:
        self.device, self.seconds, self.description, self.out = device, seconds, machine, out
        self.bandwidth = 0.0  # bytes per second, read and written
        self.rate: dict[int, float] = {}  # operations per second by number of agents
        self.rows: list[Row] = []

    def wait(self) -> None:
        """For the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, call: Callable[[], Any], clock: Callable[[], float] = perf_counter) -> float:
        """Seconds of a call."""
        for _ in range(3):  # allocates, warms up, captures
            call()
        self.wait()
        times: list[float] = []
        begun = perf_counter()
        while len(times) < 5 or perf_counter() - begun < self.seconds:
            started = clock()
            call()
            self.wait()
            times.append(clock() - started)
        return statistics.median(times)

    def part(self, agents: int, vlm: str, part: str, call: Callable[[], Any], bytes_moved: float = 0.0) -> None:
        """Time a part and compare it with its operations and bytes."""
        with FlopCounterMode(display=False) as counter:
            call()
        bound = counter.get_total_flops() / self.rate[agents] + bytes_moved / self.bandwidth
        self.add(Row(agents, vlm, part, 1e3 * self.time(call), 1e3 * bound))

    def add(self, row: Row) -> None:
        """Keep a row and print it."""
        self.rows.append(row)
        bound, ratio = ("", "") if row.ratio is None else (f"{row.bound:.3f}", f"{100 * row.ratio:.0f} %")
        print(
            f"| {row.agents} | {row.vlm} | {row.part} | {row.time:.3f} | {bound} | {ratio} | {row.note} |", flush=True
        )
        self.write()

    def write(self) -> None:
        """Everything measured so far."""
        if self.out is None:
            return
        result = {
            "machine": self.description,
            "command": " ".join(["python benchmarks/throughput.py", *sys.argv[1:]]),
            "copy_bytes_per_s": self.bandwidth,
            "products_flop_per_s": self.rate,
            "rows": [{**asdict(row), "ratio": row.ratio} for row in self.rows],
        }
        self.out.write_text(json.dumps(result, indent=1) + "\n")

    # -- (a)

    def machine(self, agents: Sequence[int], width: int) -> None:
        """Matrix products of the hidden layers' and the head's sizes, and copying more than the caches hold."""
        source = torch.rand(64 * 2**20, device=self.device)
        copied = torch.empty_like(source)
        seconds = self.time(lambda: copied.copy_(source))
        self.bandwidth = 2 * source.nbytes / seconds
        print(f"\ncopy: {self.bandwidth / 1e9:.1f} GB/s, read and written")
        for num in agents:
            rates = {}
            for name, members, rows, inner, outer in (
                ("actor's hidden layer", num, BATCH, 256, 256),
                ("critics' hidden layer", 2 * num, BATCH, 256, 256),
                ("image head's first layer", num, 3 * BATCH, width, 256),
            ):
                x, w = (torch.rand(members, *shape, device=self.device) for shape in ((rows, inner), (inner, outer)))
                out = torch.empty(members, rows, outer, device=self.device)
                seconds = self.time(partial(torch.bmm, x, w, out=out))
                rates[name] = 2 * members * rows * inner * outer / seconds
            self.rate[num] = max(rates.values())
            shown = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
            print(f"float32 products in GFLOP/s, {num} agents: {shown}; the best is the rate that bounds are made from")

    # -- (b)

    def learner(self, num: int, vlm: VLM, name: str) -> None:
        """Sampling and every part of an update; all agents in the success phase and in the relay, the dearest case."""
        agents = population(num)
        randomness = Randomness(agents)
        learner = Learner(randomness.init, OBS_DIM, ACTION_DIM, torch.rand(num, vlm.width)).to(self.device)
        optimizers = learner.optimizers()
        assert optimizers.vlm_agent is not None and optimizers.heads is not None
        replay = filled_replay(num, vlm.width, self.device)
        generators = randomness.learning
        embedding = torch.rand(num, BATCH, vlm.width, device=self.device)
        triples = torch.stack([embedding, embedding.flip(1), embedding.flip(2)], 1)

        def sample() -> Transitions:
            fields = replay.sample(BATCH, generators)
            fields["embedding"] = fields["embedding"].float()
            fields["discount"] = 1.0 - fields.pop("terminated").float()
            return Transitions(**fields)

        def whole() -> None:
            learner.update(Batch(sample(), range(num), triples), optimizers, generators)

        steps = TensorDict(replay.steps(0, 1), [1, num]).clone()
        transition = replay.bytes_per_transition * num
        self.part(num, name, "replay: add a step", lambda: replay.extend(steps), 2 * transition)
        self.part(num, name, "replay: sample a batch", sample, BATCH * (2 * transition + 6 * vlm.width * num))
        batch = sample()
        noise = torch.randn(2, num, BATCH, ACTION_DIM, device=self.device)
        sac, heads = learner.vlm_agent, learner.heads
        assert sac is not None and heads is not None and batch.embedding is not None
        self.part(num, name, "reward of a batch", partial(_without_grad, heads, batch.embedding))
        self.part(
            num,
            name,
            "heads: update",
            partial(heads.update_by_success, triples, optimizers.heads),
            adam_bytes(optimizers.heads) + 4 * triples.nbytes / 3,
        )
        target = 3 * sum(p.nbytes for p in sac.target_critic.parameters())
        adam = optimizers.vlm_agent
        self.part(
            num,
            name,
            "one SAC population: update",
            lambda: sac.update(batch, batch.reward, noise[0], noise[1], adam),
            adam_bytes(adam) + target,
        )
        self.part(num, name, "of it: Adam", lambda: adam.step(), adam_bytes(adam))
        self.part(num, name, "of it: target", lambda: sac.update_target(), target)
        moved = (
            sum(adam_bytes(optimizer) for optimizer in optimizers if optimizer is not None)
            + 2 * target
            + BATCH * (2 * transition + 6 * vlm.width * num)
        )
        self.part(num, name, WHOLE, whole, moved)

        def rounded() -> None:  # what --trainer.precision bf16-mixed does
            with torch.autocast(self.device.type, torch.bfloat16):
                whole()

        exact = self.rows[-1].time
        seconds = self.time(rounded)
        self.add(Row(num, name, WHOLE + ", bf16-mixed", 1e3 * seconds, None, f"{exact / seconds / 1e3:.2f} x float32"))

    def embedding(self, num: int, vlm: VLM, name: str, precision: str) -> None:
        """Frames of one step of all agents, and of ten steps."""
        for frames in (num, 10 * num):
            side = full_size.drawn_for(vlm).size
            pictures = torch.randint(0, 256, (frames, side, side, 3), dtype=torch.uint8)
            part = f"embed {frames} frames, {precision}"
            self.part(num, name, part, partial(vlm.encode_images, pictures))

    def collection(self, num: int, workers: Sequence[int], vlm: VLM) -> None:
        """Bare steps and frames, then TorchRL's environment around the VLM's picture with so many worker processes."""
        agents = population(num)
        simulators = [MetaWorld(agent.task, agent.seed) for agent in agents]
        actions = np.random.default_rng(0).uniform(-1, 1, (num, ACTION_DIM)).astype(np.float32)

        def step_simulators() -> None:
            for simulator, action in zip(simulators, actions, strict=True):
                if simulator.step(action).truncated:
                    simulator.reset()

        for simulator in simulators:
            simulator.reset()
        step_all = self.time(step_simulators)
        self.add(Row(num, "", "bare env.step", 1e3 * step_all, None))
        draw_all = {}
        for picture in dict.fromkeys([*PICTURES, *(full_size.drawn_for(vlm, quality) for quality in QUALITIES)]):
            draw_all[picture] = self.drawing(simulators, picture)[0]
            self.add(Row(num, "", bare_render(picture), 1e3 * draw_all[picture], None))
        asked = full_size.drawn_for(vlm)
        for number in workers:
            env = PopulationEnv(agents, asked, number)
            generator = torch.Generator().manual_seed(0)
            state = env.reset()
            taken = 0

            def step(env: PopulationEnv = env, generator: torch.Generator = generator) -> None:
                nonlocal state, taken
                state["action"] = torch.rand(num, ACTION_DIM, generator=generator) * 2 - 1
                state = env.step(state)["next"].exclude("reward")
                taken += 1
                if taken % 500 == 0:
                    state = env.reset()

            seconds = self.time(step)
            env.close()
            shared = min(max(number, 1), num, os.cpu_count() or 1)
            bound = 1e3 * (step_all + draw_all[asked]) / shared
            self.add(Row(num, "", f"collect, {number} workers", 1e3 * seconds, bound))

    def drawing(
        self, simulators: Sequence[MetaWorld], picture: SimulatorSettings, clock: Callable[[], float] = perf_counter
    ) -> tuple[float, np.ndarray]:
        """Seconds in which all are drawn once, and their frames, uint8 [A, size, size, 3]."""
        assert picture.render is not None
        renderers = [Renderer(simulator.env.model, picture.render, picture.size) for simulator in simulators]
        frames = np.empty((len(simulators), picture.size, picture.size, 3), np.uint8)

        def draw_all() -> None:
            for simulator, renderer, frame in zip(simulators, renderers, frames, strict=True):
                renderer.render(simulator.env.data, frame)

        seconds = self.time(draw_all, clock)
        for renderer in renderers:
            renderer.close()
        return seconds, frames

    def frame(self, num: int) -> None:
        """What a frame costs one core, drawn and embedded with the other agents' ones, as it is now and as it was.

        By CPU time, of all threads together, which other programs on the machine hardly change.
        """
        simulators = [MetaWorld(agent.task, agent.seed) for agent in population(num)]
        for simulator in simulators:
            simulator.reset()
            simulator.step(np.zeros(ACTION_DIM, np.float32))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threads that wait for each other would count
        totals: list[float] = []
        for name, picture, encode in (
            ("EmbeddedCLIP", FAST, EmbeddedCLIP().encode_images),
            ("Embedded", LIGHT, Embedded().encode_images),
        ):
            draw, frames = self.drawing(simulators, picture, process_time)
            embed = self.time(partial(encode, torch.from_numpy(frames)), process_time)
            each = [1e3 * seconds / num for seconds in (draw, embed)]
            totals.append(sum(each))
            note = f"{each[0]:.2f} to draw, {each[1]:.2f} to embed"
            note += f"; {totals[0] / totals[1]:.2f} times as fast" if totals[1:] else ""
            part = f"a frame drawn and embedded, {picture_name(picture)}, one core"
            self.add(Row(num, name, part, totals[-1], None, note))
        torch.set_num_threads(threads)

    # -- (c)

    def run(self, num: int, vlm: str, picture: SimulatorSettings, options: Sequence[str], note: str) -> None:
        """A run of furl-fit; its bound is the sum of its parts' bounds, spread over the cores."""
        assert picture.render is not None
        steps, start = 400, 100
        with tempfile.TemporaryDirectory() as folder:
            names = ", ".join({agent.task: None for agent in population(num)})
            seeds = list(range(max(1, num // 10)))
            argv = ["--data.tasks", f"[{names}]", "--data.seeds", str(seeds), "--runs", folder, "--name", "run"]
            argv += ["--data.env_steps", str(steps), "--data.goal_image", "false"]
            argv += ["--data.collection.start_steps", str(start)]
            argv += ["--model.log_every", "50", "--trainer.accelerator", "gpu" if self.device.type == "cuda" else "cpu"]
            argv += ["--data.evaluation.every", "100000000", "--data.checkpoints.every", "100000000"]
            argv += ["--pictures", "false", "--data.env.render", picture.render]
            if fit([*argv, *options]):
                raise SystemExit("furl-fit failed")
            with (Path(folder) / "run/metrics.csv").open() as file:
                rows = [(int(s), tag, float(v)) for s, tag, v in list(csv.reader(file))[1:] if tag.startswith("perf/")]
        late = [(tag, value) for step, tag, value in rows if step > start + 50]
        mean = {tag: statistics.mean(v for t, v in late if t == tag) for tag in {t for t, _ in late}}
        step = 1e3 * num / mean["perf/env_steps_per_s"]
        parts = mean["perf/collect_ms"] + mean["perf/embed_ms"] + mean["perf/update_ms"]
        bounds = {row.part: row.bound for row in self.rows if row.agents == num and row.vlm == vlm}
        learn = bounds[WHOLE]
        look = next(bound for part, bound in bounds.items() if part.startswith(f"embed {num} frames"))
        parts_of_collecting = ("bare env.step", bare_render(picture))
        bare = sum(row.time for row in self.rows if row.agents == num and row.part in parts_of_collecting)
        simulate = bare / (os.cpu_count() or 1)
        assert learn is not None and look is not None
        # On a processor all share the cores; a GPU works beside them.
        bound = max(simulate, look + learn) if self.device.type == "cuda" else simulate + look + learn
        self.add(Row(num, vlm, f"furl-fit, {note}", step, bound, f"{mean['perf/env_steps_per_s']:.0f} env steps/s"))
        rest = step - parts
        self.add(
            Row(
                num, vlm, f"of it: Lightning, logging, bar ({note})", rest, None, f"{100 * rest / step:.1f} % of a step"
            )
        )


def picture_name(picture: SimulatorSettings) -> str:
    """Quality and size."""
    return f"{picture.render} at {picture.size}"


def bare_render(picture: SimulatorSettings) -> str:
    """The part's name."""
    return f"bare render, {picture_name(picture)}"


def population(num: int) -> list[Agent]:
    """MT10's tasks in turn, with as many seeds as it takes."""
    tasks = task_names("mt10")
    return [Agent(tasks[i % len(tasks)], i // len(tasks)) for i in range(num)]


def filled_replay(num: int, width: int, device: torch.device) -> ReplayBuffer:
    """A full buffer of random transitions."""
    replay = ReplayBuffer(HELD, device)
    shapes: dict[str, tuple[int, ...]] = {
        "observation": (OBS_DIM,), "action": (ACTION_DIM,), "next_observation": (OBS_DIM,), "reward": (),
        "terminated": (), "embedding": (width,), "goal_distance": (),
    }  # fmt: skip
    steps = {name: torch.rand(HELD, num, *shape) for name, shape in shapes.items()}
    steps["terminated"], steps["embedding"] = steps["terminated"] < 0, steps["embedding"].half()
    replay.extend(TensorDict(steps, [HELD, num]))
    return replay


def adam_bytes(optimizer: PopulationAdam) -> int:
    """Parameter, gradient and two moments are read, all but the gradient written."""
    return 7 * sum(p.nbytes for group in optimizer.param_groups for p in group["params"])


def _without_grad(reward: torch.nn.Module, embedding: Tensor) -> Tensor:
    with torch.no_grad():
        return reward(embedding)


def make_vlm(name: str, folder: Path, precision: Precision) -> tuple[VLM, list[str]]:
    """A model at full size, and furl-fit's options for it."""
    vlm = full_size.FAMILIES[VLMS[name]][1](folder, precision)
    options = {
        "embedded": ["--model.vlm", "Embedded"],
        "clip_b32": ["--model.vlm", "CLIP", "--model.vlm.path", str(folder)],
        "rn50": ["--model.vlm", "CLIPResNet", "--model.vlm.path", str(folder / "weights.pt")],
    }[name]
    options += ["--model.vlm.tokenizer", str(folder)] if name == "rn50" else []
    return vlm, [*options, "--model.vlm.precision", precision, "--allow_slow_bfloat16", "true"]


def draw(rows: Sequence[Row], vlm: str, path: Path) -> None:
    """Time of one agent's step by part, over the number of agents."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    sizes = sorted({row.agents for row in rows})
    most = max(int(row.part.split()[1]) for row in rows if row.part.startswith("collect"))
    parts = {
        f"collect, {most} workers": f"collect, {most} workers",
        "embed frames": "embed {} frames, float32",
        "one SAC population's update": "one SAC population: update",
        "heads' update": "heads: update",
        "whole update": WHOLE,
    }
    for label, part in parts.items():
        times = {row.agents: row.time / row.agents for row in rows if row.vlm in ("", vlm)
                 and row.part == part.format(row.agents)}  # fmt: skip
        axes.plot(sizes, [times[num] for num in sizes], "o-", label=label)
    axes.set(xscale="log", xlabel="agents", ylabel="ms per agent and step")
    axes.set_ylim(bottom=0.0)
    axes.set_xticks(sizes, [str(num) for num in sizes], minor=False)
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and print everything, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default="1,10", help="sizes of populations; above 10, multiples of 10")
    parser.add_argument("--vlm", default="embedded", help=f"of {', '.join(VLMS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", default="0,1,2", help="numbers of processes that collect")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each part; five calls at least")
    parser.add_argument("--runs", action=argparse.BooleanOptionalAction, default=True, help="whole runs, first VLM")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--figure", type=Path, help="picture of how cost grows with the agents")
    given = parser.parse_args()
    agents, workers = ([int(n) for n in value.split(",")] for value in (given.agents, given.workers))
    names = given.vlm.split(",")
    if set(names) - set(VLMS):
        parser.error(f"--vlm knows {', '.join(VLMS)}, not {', '.join(sorted(set(names) - set(VLMS)))}")
    if given.runs and any(num > 10 and num % 10 for num in agents):
        parser.error("--agents above 10 must be multiples of 10, ten tasks by so many seeds, or give --no-runs")
    library_logging.disable_progress_bar()
    library_logging.set_verbosity_error()
    what = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor() or platform.machine()
    machine = f"{what}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(machine)
    bench = Bench(torch.device(given.device), given.seconds, machine, given.out)
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for name in names:
            for precision in ("float32", "bfloat16"):
                place = Path(folder) / name / precision
                place.mkdir(parents=True)
                made[name, precision] = make_vlm(name, place, precision)
        bench.machine(agents, max(vlm.width for vlm, _ in made.values()))
        print("\n| agents | VLM | part | ms | bound, ms | of the bound | |\n|---|---|---|---|---|---|---|")
        if bench.device.type == "cpu":
            bench.frame(10)
        for num in agents:
            bench.collection(num, workers, made[names[0], "float32"][0])
            for name in names:
                bench.learner(num, made[name, "float32"][0], name)
                for precision in ("float32", "bfloat16"):
                    vlm = made[name, precision][0].to(bench.device)
                    bench.embedding(num, vlm, name, precision)
        if given.runs:
            vlm, of_vlm = made[names[0], "float32"]
            asked = full_size.drawn_for(vlm)
            most = ["--data.collection.num_workers", str(max(workers))]
            ways = [("one process", asked, ["--data.collection.num_workers", "0"])]
            ways += [(f"{max(workers)} workers", full_size.drawn_for(vlm, quality), most) for quality in QUALITIES]
            ways += [(f"{max(workers)} workers, overlapped", asked, [*most, "--data.collection.overlap", "true"])]
            for num in agents:
                for way, picture, options in ways:
                    note = f"{way}, {picture_name(picture)}"
                    bench.run(num, names[0], picture, [*of_vlm, *options], note)
    close_gl()
    if given.figure is not None:
        draw(bench.rows, names[0], given.figure)


if __name__ == "__main__":
    main()
