"""Options whose value is a class with arguments: which are set, and where another class begins anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from furl_lightning.training.saved_settings import (
    CLASS_OPTIONS,
    OPTIONS,
    SIMULATOR,
    as_argument,
    is_our_simulator,
    is_ours,
    modules_of,
)


def begin_anew(argv: Sequence[str]) -> list[str]:
    """The arguments, where an option that names another class than before is emptied first.

    A parser would hand the one class's arguments on to the other, such as a CLIP's path to a LIV. What was given before
    any class was named is of none, and stays.

    Args:
        argv: files in it as the text that is in them.
    """
    result: list[str] = []
    before: dict[str, str] = {}
    for arguments, settings in _pieces(argv):
        for option in CLASS_OPTIONS:
            for value in _values(settings, option):
                name = _class_of(value)
                if name is not None and option in before and not _same(name, before[option]):
                    result += [f"--{option}", "null"]
                if name is not None:
                    before[option] = name
                elif _is_whole(value):
                    before.pop(option, None)
        result += arguments
    return result


def options_set(argv: Sequence[str]) -> set[str]:
    """The options that take a class and are set as a whole, to a class or to something else, not only in a part."""
    return {
        option
        for _, settings in _pieces(argv)
        for option in (*CLASS_OPTIONS, SIMULATOR)
        if any(_is_whole(value) for value in _values(settings, option))
    }


def foreign_classes(config: str) -> list[str]:
    """The arguments that must be given again for a run to go on: classes that are not the package's own.

    Args:
        config: the run's settings, as YAML.
    """
    settings = yaml.safe_load(config)
    options = (*CLASS_OPTIONS, SIMULATOR, OPTIONS)
    values = {option: value for option in options for value in _values(settings, option)}
    simulator, arguments = values.pop(SIMULATOR, None), values.pop(OPTIONS, None)
    foreign = {option: value for option, value in values.items() if not is_ours(option, value)}
    if simulator is not None and (not is_our_simulator(simulator) or modules_of(arguments)):
        foreign[SIMULATOR] = simulator
    return [part for option, value in foreign.items() for part in (f"--{option}", as_argument(value))]


def _pieces(argv: Sequence[str]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Each option with its value, as arguments and as settings by dotted name."""
    rest = list(argv)
    while rest:
        arguments = [rest.pop(0)]
        option, equals, text = arguments[0].partition("=")
        if not option.startswith("--"):
            yield arguments, {}
            continue
        if not equals and rest and not rest[0].startswith("--"):
            arguments.append(rest.pop(0))
            text = arguments[1]
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        name = option.removeprefix("--")
        if name == "config":
            yield arguments, value if isinstance(value, dict) else {}
        else:
            yield arguments, {name: value}


def _values(settings: Any, option: str) -> Iterator[Any]:
    """What settings, nested or by dotted names, say of an option."""
    if not isinstance(settings, dict):
        return
    for name, value in settings.items():
        if name == option:
            yield value
        elif option.startswith(f"{name}."):
            yield from _values(_loaded(value), option.removeprefix(f"{name}."))
        elif name == f"{option}.class_path":
            yield {"class_path": value}


def _loaded(value: Any) -> Any:
    """Text in the place of a group of options is YAML as well."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def _class_of(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("class_path")
    return value if isinstance(value, str) else None


def _is_whole(value: Any) -> bool:
    return not isinstance(value, dict) or "class_path" in value


def _same(one: str, other: str) -> bool:
    """Whether two names are of one class; one without a module is of a class that is known by it."""
    if "." in one and "." in other:
        return one == other
    return one.rpartition(".")[2] == other.rpartition(".")[2]
