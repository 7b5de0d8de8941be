"""Objects from parsed arguments, without a net under their constructors: whatever they raise keeps its traceback."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, get_type_hints

from jsonargparse import Namespace


def construct(cls: Any, arguments: Namespace | dict[str, Any], **others: Any) -> Any:
    """An object of a class.

    Args:
        cls: the class.
        arguments: of its constructor, as a parser gives them: settings and classes in them are made first.
        others: objects that are arguments too, in place of those of the same name.
    """
    values = {name: value for name, value in _items(arguments).items() if name not in others}
    hints: dict[str, Any] = {}
    if any(_is_group(value) for value in values.values()):
        hints = get_type_hints(cls.__init__)
    return cls(**{name: _value(value, hints.get(name)) for name, value in values.items()}, **others)


def construct_class(arguments: Namespace | dict[str, Any]) -> Any:
    """An object of the class that ``class_path`` names, from ``init_args``.

    Raises:
        ImportError, AttributeError: there is no such module, or no such class in it.
    """
    cls = import_class(str(arguments["class_path"]))
    parts = [_items(arguments.get(part) or {}) for part in ("init_args", "dict_kwargs")]
    return construct(cls, {**parts[0], **parts[1]})


def import_class(path: str) -> Any:
    """The class at an import path.

    Raises:
        ImportError, AttributeError: there is no such module, or no such class in it.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _value(value: Any, hint: Any) -> Any:
    if _is_group(value):
        if "class_path" in _items(value):
            return construct_class(value)
        if dataclasses.is_dataclass(hint):
            return construct(hint, value)
    if isinstance(value, list):
        return [_value(item, None) for item in value]
    return value


def _is_group(value: Any) -> bool:
    return isinstance(value, Namespace | dict)


def _items(arguments: Namespace | dict[str, Any]) -> dict[str, Any]:
    return vars(arguments) if isinstance(arguments, Namespace) else arguments
