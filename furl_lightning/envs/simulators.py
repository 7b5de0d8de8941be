"""Which simulators there are: by name or import path, their tasks, and how one is made. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from furl_lightning import tasks
from furl_lightning.envs.environment import Environment
from furl_lightning.envs.hosted import Hosted
from furl_lightning.envs.metaworld import MetaWorld
from furl_lightning.envs.simulator import Simulator, SimulatorSettings
from furl_lightning.tasks import METAWORLD
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.nearest import nearest
from furl_lightning.utils.user_module import NoModule, import_module

OURS = {
    "Gymnasium": "furl_lightning.envs.gymnasium.Gymnasium",
    "Fetch": "furl_lightning.envs.fetch.Fetch",
}
"""The package's environments beside Meta-World, by the names that they are given by."""
OPTION = "data.env.simulator"


class UnknownSimulator(BadInput):
    """``data.env.simulator`` names none."""


def make_simulator(task: str, seed: int, settings: SimulatorSettings, show_goal: bool = False) -> Simulator:
    """One agent's simulator.

    Args:
        task, seed, settings: see :class:`Simulator`.
        show_goal: for a scripted expert: let Meta-World's observation have the goal even where it is fixed.

    Raises:
        BadInput: there is no such class, it cannot be made with these options, or does not follow the contract.
    """
    if settings.simulator == METAWORLD:
        return MetaWorld(task, seed, settings, show_goal)
    return Hosted(make_environment(settings.simulator, settings.options, task), task, seed, settings)


def make_environment(simulator: str, options: dict[str, Any], task: str) -> Environment:
    """An environment of a class by the contract.

    Raises:
        BadInput: there is no such class, or it cannot be made with these options.
    """
    cls = environment_class(simulator)
    refuse_options(cls, options)
    constructor: Any = cls
    environment: Environment = constructor(task, **options)
    return environment


def environment_class(simulator: str) -> type[Environment]:
    """The class at a name or import path; what the import of the user's module raises keeps its traceback.

    Raises:
        UnknownSimulator: there is none, or it does not follow the contract.
    """
    path = OURS.get(simulator, simulator)
    module_path, _, name = path.rpartition(".")
    known = [METAWORLD, *OURS]
    if not module_path:
        raise UnknownSimulator(
            f"unknown {OPTION} '{simulator}'; the nearest is '{nearest(simulator, known)}'; a class of your own is "
            "named by its import path, such as my_module.MyEnvironment"
        )
    try:
        module = import_module(module_path)
    except NoModule as error:
        raise UnknownSimulator(f"unknown {OPTION} '{simulator}'; {error}") from None
    cls = getattr(module, name, None)
    if cls is None:
        raise UnknownSimulator(f"unknown {OPTION} '{simulator}'; module {module_path} has no {name}")
    if not inspect.isclass(cls) or not issubclass(cls, Environment):
        raise UnknownSimulator(
            f"{OPTION} must be a subclass of furl_lightning.envs.environment.Environment; {simulator} is none"
        )
    if inspect.isabstract(cls):
        lacking = ", ".join(sorted(cls.__abstractmethods__))
        raise UnknownSimulator(f"{OPTION} {simulator} lacks {lacking}: see furl_lightning.envs.environment.Environment")
    return cls


def refuse_options(cls: type[Environment], options: dict[str, Any]) -> None:
    """Check ``data.env.options`` against a class's constructor.

    Raises:
        BadInput: it does not take one of them, or one lacks that it needs.
    """
    parameters = dict(list(inspect.signature(cls).parameters.items())[1:])  # the first is the task
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name in options:
        if name not in named and not takes_any:
            takes = f"takes {', '.join(named)}" if named else "takes none"
            raise BadInput(f"data.env.options has '{name}', but {cls.__name__} {takes}")
    lacking = [name for name in named if parameters[name].default is inspect.Parameter.empty and name not in options]
    if lacking:
        raise BadInput(f"{cls.__name__} needs data.env.options to have {', '.join(lacking)}")


def task_names(simulator: str, names: str | Sequence[str]) -> list[str]:
    """The tasks that ``data.tasks`` names, for a simulator.

    Raises:
        UnknownTask: a name that it does not have, with the nearest that it has; a task given twice; no task at all.
        UnknownSimulator: there is no such class.
    """
    if simulator == METAWORLD:
        return tasks.task_names(names)
    return tasks.names_among([names] if isinstance(names, str) else names, environment_class(simulator).tasks)


def sentences(simulator: str) -> dict[str, str]:
    """The sentence of each of a simulator's tasks, where it has any of its own."""
    return tasks.INSTRUCTIONS if simulator == METAWORLD else environment_class(simulator).tasks
