"""Refusing bad input: every command says in one line what is wrong and what would be right, with status 2."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from furl_lightning import vlm
from furl_lightning.envs.rendering import NoGL, close_gl
from furl_lightning.utils.errors import BadInput


def answer(command: str, body: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's body on its arguments; returns the exit status, 2 for bad input."""
    try:
        return body(list(sys.argv[1:] if argv is None else argv))
    except (BadInput, NoGL) as error:
        print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        close_gl()


def parser(command: str, description: str) -> ArgumentParser:
    """A command's parser, which raises instead of printing its usage."""
    return ArgumentParser(prog=command, description=description, exit_on_error=False, allow_abbrev=False)


def parse(command: ArgumentParser, argv: list[str]) -> Any:
    """The arguments as a namespace, classes made.

    Raises:
        BadInput: an option that does not exist, a value that cannot be, a class that refuses its arguments.
    """
    try:
        return command.instantiate(command.parse_args(argv))
    except (ArgumentError, TypeError, ValueError, OSError) as error:
        options = [str(action.dest) for action in command._actions]
        raise BadInput(one_line(error, options)) from error


def names(given: Sequence[str] | None) -> list[str]:
    """Names given apart, with commas, or as a list in brackets."""
    return [name for part in given or [] for name in re.split(r"[\[\],\s]+", part) if name]


def nearest(given: str, known: Sequence[str]) -> str:
    """The most similar of what there is."""
    return difflib.get_close_matches(given, known, n=1, cutoff=0.0)[0]


def one_line(error: BaseException, options: Sequence[str]) -> str:
    """An error as one line, with the nearest valid choice for one that does not exist."""
    text = " ".join(str(error).split()) or type(error).__name__
    if re.match(r"""Parser key "(?:model\.)?vlm":""", text):  # the other choice than a model, null, says nothing
        text = re.sub(r""" - Expected a <class 'NoneType'> Given value type: .*""", "", text)
    chosen = re.search(r"""Parser key "((?:model\.)?vlm)".*given class_path '[\w.]*?(\w+)': (.*)""", text)
    if chosen and (refused := _one_line_of_vlm(*chosen.groups())):
        return refused
    unknown = (
        re.search(r"(?:Key|Group key|Option) '([\w.]+)' is not expected", text)
        or re.search(r"[Uu]nrecognized arguments?: -*([\w.]+)", text)
        or re.search(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>[\w.]+)'", text)
    )
    if unknown:
        key = ".".join(unknown.groups())
        return f"unknown option '{key}'; the nearest is '{nearest(key, options)}'"
    choice = re.search(r"""Parser key "([\w.]+)": Expected a typing.Literal\[(.*)\]\. Got value: (.*)""", text)
    if choice:
        key, values, given = choice.group(1), re.findall(r"'([^']*)'", choice.group(2)), choice.group(3)
        near = nearest(given, values)
        return f"{key} must be {' or '.join(values)}, not '{given}'; the nearest is '{near}'"
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    kind = re.search(r"""Parser key "([\w.]+)": Expected a <class '(\w+)'>\. Got value: (.*)""", text)
    if kind:
        return f"{kind.group(1)} must be {kinds.get(kind.group(2), kind.group(2))}, not '{kind.group(3)}'"
    optional = re.search(
        r"""Parser key "([\w.]+)": .*Subtypes: \[<class '(\w+)'>, <class 'NoneType'>\].*Given value: (.*)""", text
    )
    if optional:
        wanted = kinds.get(optional.group(2), optional.group(2))
        return f"{optional.group(1)} must be {wanted}, or null, not '{optional.group(3)}'"
    backbone = re.search(
        r"""Parser key "(?:model\.)?vlm".*(?:Expected a dot import path string: (\S+)|"""
        r"""Expected a path but (\w+) .*but is abstract)""",
        text,
    )
    if backbone:
        classes = {name: getattr(vlm, name) for name in vlm.__all__ if name != "VLM"}
        known = [name for name, value in classes.items() if issubclass(value, vlm.VLM)]
        given = backbone.group(1) or backbone.group(2)
        return f"unknown VLM '{given}'; the nearest is '{nearest(given, known)}'"
    return text


def _one_line_of_vlm(key: str, name: str, text: str) -> str | None:
    """An error about the arguments of the class given as ``vlm`` or ``model.vlm``."""
    model = getattr(vlm, name, None)
    lacking = re.search(r"the following arguments are required: (\w+)", text)
    if lacking:
        return f"{key} {name} needs --{key}.{lacking.group(1)}: a local path, or a name on the Hugging Face Hub"
    unknown = re.search(r"Option '(\w+)' is not accepted", text)
    if unknown and model is not None:
        options = ", ".join(list(inspect.signature(model).parameters))
        return f"unknown option '{key}.{unknown.group(1)}'; {name} takes {options}"
    if text.startswith('Parser key "'):
        return one_line(ValueError(text.replace('Parser key "', f'Parser key "{key}.', 1)), [])
    return None
