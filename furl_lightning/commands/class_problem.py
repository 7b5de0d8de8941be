"""What is wrong with a class that was given as an option's value, or with its arguments, in one line."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from furl_lightning.utils.construct import import_class
from furl_lightning.utils.nearest import nearest
from furl_lightning.utils.user_module import NoModule, import_module

BASES: dict[str, tuple[str, ...]] = {
    "vlm": ("furl_lightning.vlm.VLM",),
    "accelerator": ("pytorch_lightning.accelerators.Accelerator",),
    "logger": ("pytorch_lightning.loggers.Logger",),
    "callbacks": ("pytorch_lightning.callbacks.Callback",),
    "profiler": ("pytorch_lightning.profilers.Profiler",),
    "plugins": (
        "pytorch_lightning.plugins.Precision",
        "lightning_fabric.plugins.ClusterEnvironment",
        "lightning_fabric.plugins.CheckpointIO",
        "pytorch_lightning.plugins.LayerSync",
    ),
}
"""What a class must be of, by the last part of its option's name."""
NOUNS = {"vlm": "VLM", "callbacks": "callback", "plugins": "plugin"}


def class_problem(key: str, text: str) -> str | None:
    """A parser's message about an option's class, or about its arguments, as one line; None where it is about neither.

    Raises:
        Exception: whatever the import of the user's module raises.
    """
    kind = key.rpartition(".")[2]
    if kind not in BASES:
        return None
    found = re.search(
        r"given class_path '([\w.]+)': (.*?)(?: - (?:Expected|Problem|Not a valid|Import path|Given value).*)?$", text
    )
    path = found.group(1) if found else None
    if path is None:
        unfit = r"a dot import path string|but is abstract|does not correspond to a subclass|Not a valid subclass"
        value = re.search(rf"(?:{unfit}).* Given value: \[?'?([\w.]+)'?\]?$", text)
        path = value.group(1) if value else None
    bases = tuple(import_class(base) for base in BASES[kind])
    argument = re.search(r"NestedArg\(key='([\w.]+)'", text)
    if argument and (path is None or _class_at(path, kind) in bases):
        return f"{key} names no class yet: give --{key} CLASS before --{key}.{argument.group(1)}"
    if path is None:
        return None
    noun = NOUNS.get(kind, kind)
    cls = _class_at(path, kind)
    if isinstance(cls, str):  # why there is none
        return f"unknown {noun} '{path}'; {cls}"
    if not (inspect.isclass(cls) and issubclass(cls, bases)) or inspect.isabstract(cls):
        return f"'{path}' is no {noun}: give a class that implements {' or '.join(BASES[kind])}"
    if found is None:
        return None
    name, text = cls.__name__, found.group(2)
    lacking = re.search(r"the following arguments are required: (\w+)", text)
    if lacking:
        path_too = kind == "vlm" and lacking.group(1) == "path"
        return f"{key} {name} needs --{key}.{lacking.group(1)}" + (
            ": a local path, or a name on the Hugging Face Hub" if path_too else ""
        )
    unknown = re.search(r"Option '([\w.]+)' is not accepted", text)
    if unknown:
        return f"unknown option '{key}.{unknown.group(1)}'; {name} takes {', '.join(inspect.signature(cls).parameters)}"
    return None


def word_problem(key: str, value: Any, words: Sequence[str]) -> str | None:
    """What is wrong with a word in the place of a class, where any text passes the parser."""
    if not isinstance(value, str) or value in words:
        return None
    cls = _class_at(value, key.rpartition(".")[2]) if "." in value else None
    why = cls if isinstance(cls, str) else f"the nearest is '{nearest(value, words)}'"
    return f"{key} must be a class, or one of {', '.join(words)}, not '{value}'; {why}"


def argument_problem(text: str) -> str | None:
    """A message about the value of a class's argument, as one about an option; None where it is about none."""
    rest = r"(?: - (?:Expected|Problem|Not).*)?$"
    found = re.match(rf"""Parser key "([\w.]+)": .*?given class_path '[\w.]+': Parser key "(.*?){rest}""", text)
    return f'Parser key "{found.group(1)}.{found.group(2)}' if found else None


def _class_at(path: str, kind: str) -> Any:
    """What an import path or the name of a known class names, or why there is none, in words."""
    module, _, name = path.rpartition(".")
    if not module:
        known = _known(kind)
        return known.get(name, f"the nearest is '{nearest(name, list(known))}'")
    try:
        imported = import_module(module)
    except NoModule as error:
        return str(error)
    return getattr(imported, name, f"module {module} has no {name}")


def _known(kind: str) -> dict[str, Any]:
    """The classes that an option takes by their names alone."""
    modules = [importlib.import_module(base.rpartition(".")[0]) for base in BASES[kind]]
    bases = tuple(import_class(base) for base in BASES[kind])
    return {
        name: cls
        for module in modules
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, bases) and cls not in bases
    }
