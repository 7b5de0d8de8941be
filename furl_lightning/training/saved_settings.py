"""Settings out of a checkpoint or a run's folder, which may be a stranger's: no class but ours comes of them.

A parser imports whatever a ``class_path`` names, and reads a file that stands in the place of a group of options. So
they are looked through before a parser sees them.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from pytorch_lightning.accelerators import AcceleratorRegistry

from furl_lightning import vlm
from furl_lightning.envs import simulators
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.tasks import METAWORLD
from furl_lightning.utils.errors import BadInput

CLASS_OPTIONS = (
    "model.vlm",
    *(f"trainer.{name}" for name in ("accelerator", "logger", "callbacks", "plugins", "profiler")),
)
"""Options of ``furl-fit`` whose value may be a class."""
WORDS: dict[str, tuple[str, ...]] = {
    "trainer.accelerator": ("auto", "gpu", *AcceleratorRegistry.available_accelerators()),
    "trainer.profiler": ("simple", "advanced", "pytorch", "xla"),
}
"""What Lightning makes of a word itself."""
OURS = {
    name: cls
    for name in vlm.__all__
    if inspect.isclass(cls := getattr(vlm, name)) and issubclass(cls, vlm.VLM) and not inspect.isabstract(cls)
}
"""The package's own VLMs by name."""


SIMULATOR, OPTIONS = simulators.OPTION, "data.env.options"


class NoSettings(BadInput):
    """They are none of furl-fit, of this version at least."""


class ForeignClass(BadInput):
    """Settings name a class that is not the package's."""


def safe_settings(
    settings: Any, parser: ArgumentParser, source: Path, replaced: Collection[str] = (), flags: Mapping[str, str] = {}
) -> dict[str, Any]:
    """Settings that can be given to a parser without anything but the package's own classes being imported.

    Args:
        settings: nested, as read; text in them stands for itself.
        parser: of the options that they may set.
        source: the file that they are from, for messages.
        replaced: options that the user gives whole; a class that is not the package's is left out of the settings then.
        flags: by option, the one by which the user would name the class, where that has another name here.

    Raises:
        ForeignClass: another class is named; says how to name it oneself.
        NoSettings: they are not as furl-fit writes them.
    """
    names = {str(action.dest) for action in parser._actions if not str(action.dest).endswith(".help")}
    groups = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    leaves = names - groups - {"help", "config", "print_config"}
    flags = {name: f"--{name}" for name in (*CLASS_OPTIONS, SIMULATOR)} | dict(flags)
    safe: dict[str, Any] = {}
    for path, value in _flat(settings, groups, source):
        if path not in leaves:
            raise NoSettings(f"{source}: there is no option '{path}'")
        if path in replaced and not (is_our_simulator(value) if path == SIMULATOR else is_ours(path, value)):
            continue
        if path in CLASS_OPTIONS:
            value = _of_ours(path, value, source, flags[path])
        elif any("${" in text for text in _texts(value)):  # a parser would put in variables of the environment
            raise NoSettings(f"{source}: {path} has a reference ${{...}}, where furl-fit writes its value")
        elif path == SIMULATOR and not is_our_simulator(value):
            raise _foreign(path, str(value), source, f"{flags[path]} {shlex.quote(str(value))}")
        elif path == OPTIONS and SIMULATOR not in replaced and (modules := modules_of(value)):
            raise _foreign(path, ", ".join(modules), source, f"{flags[SIMULATOR]} Gymnasium")
        group = safe
        *above, last = path.split(".")
        for name in above:
            group = group.setdefault(name, {})
        group[last] = value
    return safe


def as_argument(value: Any) -> str:
    """A class with its arguments, or a list of them, as one argument that says all of it."""
    if isinstance(value, dict) and set(value) == {"class_path"}:
        value = value["class_path"]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def is_ours(path: str, value: Any) -> bool:
    """Whether what an option is set to needs no class but the package's own."""
    if value is None or isinstance(value, bool | int | float):
        return True
    if path != "model.vlm":
        return isinstance(value, str) and value in WORDS.get(path, ())
    if isinstance(value, str):
        return _name_of_ours(value) is not None
    return (
        isinstance(value, dict)
        and set(value) <= {"class_path", "init_args"}
        and _name_of_ours(value.get("class_path")) is not None
        and isinstance(arguments := value.get("init_args") or {}, dict)
        and all(_is_identifier(name) and _is_plain(argument) for name, argument in arguments.items())
    )


def _of_ours(path: str, value: Any, source: Path, flag: str) -> Any:
    if is_ours(path, value):
        if path != "model.vlm" or value is None:
            return value
        value = {"class_path": value} if isinstance(value, str) else value
        name = _name_of_ours(value["class_path"])
        return {**value, "class_path": f"{vlm.__name__}.{name}"}
    named = ", ".join(dict.fromkeys(_classes(value))) or "no class"
    raise _foreign(path, named, source, f"{flag} {shlex.quote(as_argument(value))}")


def _foreign(path: str, named: str, source: Path, again: str) -> ForeignClass:
    return ForeignClass(
        f"{source} sets {path} to {named}, not the package's own, and what was written elsewhere may be anybody's, so "
        f"it is not imported; if you trust it, give it yourself: {again}"
    )


def is_our_simulator(value: Any) -> bool:
    """Whether ``data.env.simulator`` is one of the package's own."""
    return isinstance(value, str) and value in (METAWORLD, *simulators.OURS)


def refuse_foreign_simulator(settings: SimulatorSettings, source: Path, given: str | None) -> None:
    """Refuse a checkpoint's simulator that is not ours and that the user has not named with ``--simulator``.

    Raises:
        ForeignClass: says how to name it.
    """
    foreign = not is_our_simulator(settings.simulator) or modules_of(settings.options)
    if foreign and given != settings.simulator:
        named = (
            settings.simulator if not is_our_simulator(settings.simulator) else ", ".join(modules_of(settings.options))
        )
        raise _foreign(SIMULATOR, named, source, f"--simulator {shlex.quote(settings.simulator)}")


def modules_of(options: Any) -> list[str]:
    """The modules that ``data.env.options`` would have Gymnasium import: ``module:Id``."""
    names = (text.partition(":")[0] for text in _texts(options) if re.match(r"[\w.]+:[\w/-]+$", text))
    return sorted({name for name in names if name != "gymnasium_robotics"})


def _flat(settings: Any, groups: Collection[str], source: Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options by dotted name."""
    if not isinstance(settings, dict):
        raise NoSettings(
            f"{source}: {prefix.rstrip('.') or 'it'} must be a mapping of options, not {str(settings)[:80]!r}"
        )
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if not _is_identifier(name):
            raise NoSettings(f"{source}: there is no option '{path}'")
        if path in groups:
            yield from _flat(value, groups, source, f"{path}.")
        else:
            yield path, value


def _name_of_ours(path: Any) -> str | None:
    name = str(path).rpartition(".")[2]
    cls = OURS.get(name)
    known = () if cls is None else (name, f"{vlm.__name__}.{name}", f"{cls.__module__}.{name}")
    return name if isinstance(path, str) and path in known else None


def _is_identifier(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier()


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "${" not in value)


def _classes(value: Any) -> Iterator[str]:
    """The names of all classes in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _classes(item)
    elif isinstance(value, dict):
        if "class_path" in value:
            yield str(value["class_path"])
        for part in value.values():
            yield from (name for item in [part] if isinstance(item, dict | list) for name in _classes(item))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(item)
