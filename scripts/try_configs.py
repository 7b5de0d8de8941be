"""Runs each file under ``conf/`` for 600 steps on one task and prints a line of what it did.

    python scripts/try_configs.py --out docs/configs.md

What is on is read from the run's ``config.yaml``; what was computed and stored from its metrics, not
from what the configuration promises.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
BASE = "mt10.yaml"
"""What all other files are laid over."""
SMALL = {
    "data.tasks": "[drawer-close]",
    "data.seeds": "[0]",
    "data.env_steps": "600",
    "data.collection.start_steps": "300",
    "data.collection.steps_per_iteration": "1",
    "data.collection.num_workers": "0",
    "data.collection.overlap": "false",
    "data.evaluation.every": "600",
    "data.evaluation.episodes": "1",
    "data.checkpoints.every": "600",
    "model.log_every": "100",
}
OTHERWISE = {
    "obs/pixels.yaml": {"data.collection.start_steps": "580", "model.log_every": "10"},
    "fetch.yaml": {"data.tasks": "[reach]"},
}
"""Convolutions on a CPU take seconds an update: fewer of them are made. Fetch has tasks of its own."""
REFERENCE = "method/furl.yaml"
HEAD = """# Each configuration, run

`python scripts/try_configs.py --out docs/configs.md`, {cores} cores: {steps} steps of each file under `conf/` on
drawer-close, one agent, batches as configured, the package's own VLM. *On* names the switches of
`docs/methods.md` and what else differs from `conf/mt10.yaml`. *Computed* and *bytes* (of one transition in the
replay buffer) are read from the run's metrics. Speed is the median over the steps in which the learner
learns. The machine was shared, so compare the last column: speed as a multiple of `{reference}` in the same call.

| file | on | computed | bytes | steps/s | of FuRL's |
|---|---|---|---|---|---|
"""


def run(file: str, runs: Path) -> Path:
    """Train as the file says, in small; returns the run's folder.

    Raises:
        RuntimeError: furl-fit fails; the message is its last line.
    """
    name = file.removesuffix(".yaml").replace("/", "-")
    argv = [part for config in dict.fromkeys([BASE, file]) for part in ("--config", str(CONF / config))]
    argv += [part for key, value in {**SMALL, **OTHERWISE.get(file, {})}.items() for part in (f"--{key}", value)]
    argv += ["--name", name, "--runs", str(runs), "--trainer.enable_progress_bar", "false"]
    command = "from furl_lightning.cli import furl_fit; furl_fit()"
    process = subprocess.run([sys.executable, "-c", command, *argv], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"furl-fit ended with {process.returncode}: {process.stderr.strip().splitlines()[-1:]}")
    return runs / name


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their names on the command line, such as ``model.sac.lr``."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and "class_path" not in value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def switches(config: dict[str, Any], base: dict[str, Any]) -> str:
    """What is on: the method's switches, then other settings that differ from the base configuration."""
    source, relay = config["model.reward.source"], config["model.relay.enabled"]
    goal_image = config["data.goal_image"]
    on = ["VLM"] if config["model.vlm"] is not None else []
    rewards = {"aligned": "heads", "cosine": "zero-shot", "goal_distance": "goal distance"}
    on += [rewards[source]] if source in rewards else []
    on += [f"relay to {config['model.relay.threshold']:,} {config['model.relay.counts']}"] if relay else []
    on += ["goal image"] if goal_image or (goal_image is None and source == "aligned") else []
    relay_end = {"model.relay.threshold", "model.relay.counts"}
    in_words = {"model.vlm", "model.reward.source", "model.relay.enabled", "data.goal_image", *relay_end}
    names = [name for name in config if name.startswith(("model.", "data.")) and name not in {*in_words, *SMALL}]
    on += [f"{name.split('.', 1)[1]} {config[name]}" for name in names if config[name] != base.get(name)]
    return ", ".join(on) or "the task's reward alone"


def computed(folder: Path, learning_from: int) -> tuple[str, int, float]:
    """What was computed; bytes of a transition; steps per second while learning, from that step on."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [(int(step), metric, float(value)) for step, metric, value in list(csv.reader(file))[1:]]
    times = {name: max(v for _, m, v in rows if m == f"perf/{name}_ms") for name in ("render", "embed")}
    tags = {metric for _, metric, _ in rows}
    parts = [name for name, milliseconds in times.items() if milliseconds > 0]
    parts += [f"{name} agent" for name in ("VLM", "SAC") if f"sac/q/{name.lower()}_agent" in tags]
    parts += [
        name for name, tag in (("heads", "alignment/loss"), ("success memory", "memory/positives")) if tag in tags
    ]
    size = int(next(value for _, metric, value in rows if metric == "replay/transition_bytes"))
    speeds = [value for step, metric, value in rows if metric == "perf/env_steps_per_s" and step >= learning_from]
    return ", ".join(parts), size, statistics.median(speeds)


def main() -> None:
    """Print a line a file and, with ``--out``, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files under conf/; all by default")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    everything = sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml") if path.parent.name != "sweep")
    files = options.files or everything
    files = list(dict.fromkeys([BASE, REFERENCE, *files]))
    text = HEAD.format(cores=os.cpu_count(), steps=SMALL["data.env_steps"], reference=REFERENCE)
    print(text, end="")
    reference, failed = 0.0, []
    base: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as runs:
        for file in files:
            try:
                folder = run(file, Path(runs))
            except RuntimeError as error:
                print(f"{file}: {error}", file=sys.stderr, flush=True)
                failed.append(file)
                continue
            config = flat(yaml.safe_load((folder / "config.yaml").read_text()))
            base = base or config
            settings = {**SMALL, **OTHERWISE.get(file, {})}
            learning_from = int(settings["data.collection.start_steps"]) + 2 * int(settings["model.log_every"])
            parts, size, speed = computed(folder, learning_from)
            if file == REFERENCE:
                reference = speed
            ratio = f"{speed / reference:.2f}" if reference else "-"
            line = f"| `{file}` | {switches(config, base)} | {parts} | {size:,} | {speed:.1f} | {ratio} |"
            print(line, flush=True)
            text += line + "\n"
    if options.out is not None:
        options.out.write_text(text)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
