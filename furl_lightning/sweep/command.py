"""``furl-sweep``: methods, goal modes, tasks and seeds spread over the nodes of a Ray cluster, or over this machine."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from furl_lightning.commands.arguments import answer, parse, parser
from furl_lightning.commands.config_files import with_paths
from furl_lightning.commands.report import report
from furl_lightning.sweep.cluster import cluster, refuse_without_ray
from furl_lightning.sweep.ledger import Ledger
from furl_lightning.sweep.plan import Sweep
from furl_lightning.sweep.run_storage import RunStorage
from furl_lightning.sweep.trial import Place
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import refuse_name, refuse_unwritable
from furl_lightning.utils.stopping import Stopping


def sweep(argv: Sequence[str] | None = None) -> int:
    """``furl-sweep``; returns the exit status."""
    return answer("furl-sweep", _sweep, argv)


def _sweep(argv: list[str]) -> int:
    flags = parser("furl-sweep", "Train methods x goals x tasks x seeds as trials on Ray, and report on them.")
    flags.parser_mode = "omegaconf"
    flags.add_argument("--config", action="config", help="A sweep file, or sweep/paper; options come after it.")
    flags.add_class_arguments(Sweep)
    flags.add_argument("--address", type=str | None, default=None, help="Of a Ray cluster: auto or HOST:PORT.")
    flags.add_argument("--num_cpus", type=int | None, default=None, help="CPUs to use, where Ray is started here.")
    flags.add_argument("--resume", type=bool, nargs="?", const=True, default=False, help="Go on with a sweep.")
    options = parse(flags, with_paths(argv))
    plan = Sweep(**{field.name: options[field.name] for field in fields(Sweep)})
    if plan.name is None:
        plan.name = Path(str(options.config[-1])).stem if options.config else "sweep"
    refuse_name(plan.name)
    refuse_unwritable(Path(plan.runs) / plan.name, "--runs or --name")
    refuse_without_ray()
    if options.num_cpus is not None and (options.address is not None or options.num_cpus < 1):
        raise BadInput("--num_cpus is of a Ray that is started here: give it without --address, at least 1")
    trials = plan.trials()
    folder = Path(plan.runs).resolve() / plan.name
    storage = None if plan.storage is None else f"{plan.storage.rstrip('/')}/{plan.name}"
    if storage is not None:
        RunStorage(storage, folder)  # refuses a URL that cannot be used
    place = Place(folder, storage, Path.cwd(), max(1, math.floor(plan.cpus)), plan.gpus > 0)
    ledger = Ledger(folder, trials, options.resume)
    with Stopping() as stopping, cluster(options.address, options.num_cpus, plan.cpus, plan.gpus):
        from furl_lightning.sweep.driver import run_trials  # imports Ray

        stopping.install()  # again: Ray puts a handler of its own over SIGTERM's
        stopping.waits = True
        ledger.write()
        run_trials(plan, place, ledger, stopping)
    for name, entry in ledger.states.items():
        if entry.state == "failed":
            print(f"furl-sweep: {name} failed: {entry.why}; see {folder / name}.log", file=sys.stderr)
    finished = ledger.finished()
    if stopping.signal is not None and len(finished) < len(trials):
        arguments = [argument for argument in argv if argument != "--resume"]
        print(
            f"\nfurl-sweep: stopped by {stopping.signal.name}; {len(finished)} of {len(trials)} trials are finished; "
            f"go on with:\n  {shlex.join(['furl-sweep', *arguments, '--resume'])}",
            file=sys.stderr,
        )
        return stopping.status
    if finished:
        labels = [f"{method}={method}-*" for method in dict.fromkeys(trial.method for trial in finished)]
        runs = [str(folder / trial.name) for trial in finished]
        report([*runs, "--label", *labels, "--out", str(folder / "report")])
    return 0 if len(finished) == len(trials) else 1
