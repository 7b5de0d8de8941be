"""What the commands share: an exit status, a parser, and one clear line for arguments that cannot be used."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from furl_lightning import vlm
from furl_lightning.envs.rendering import close_gl
from furl_lightning.utils.construct import construct_class
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM

Explain = Callable[[str, Sequence[str]], str]
"""Says what is wrong with an option that does not exist, from its name and those that do."""

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def answer(command: str, body: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's body on its arguments; returns the exit status, 2 for bad input.

    Classes of the user's own are found in the current folder, as they are by ``python -m``.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return body(list(sys.argv[1:] if argv is None else argv))
    except BadInput as error:
        print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        close_gl()


def parser(command: str, description: str) -> ArgumentParser:
    """A command's parser, which raises instead of printing its usage."""
    return ArgumentParser(prog=command, description=description, exit_on_error=False, allow_abbrev=False)


def parse(command: ArgumentParser, argv: Sequence[str]) -> Any:
    """The arguments as a namespace, a ``vlm`` among them made.

    Raises:
        BadInput: an option that does not exist, a value that cannot be, a VLM that cannot be used.
    """
    arguments = parse_arguments(command, argv)
    if "vlm" in vars(arguments):
        arguments.vlm = vlm_of(arguments.vlm)
    return arguments


def parse_arguments(command: ArgumentParser, argv: Sequence[str], explain: Explain | None = None) -> Namespace:
    """The arguments as a namespace; nothing is made.

    Raises:
        BadInput: an option that does not exist, or a value that cannot be.
    """
    try:
        return command.parse_args(list(argv))
    except ArgumentError as error:
        message = str(error)
    options = [str(action.dest) for action in command._actions if "." not in action.dest or not action.choices]
    raise BadInput(one_line(message, options, explain or _unknown))


def vlm_of(arguments: Namespace | None) -> VLM | None:
    """The VLM of parsed arguments; whatever its constructor raises keeps its traceback."""
    if arguments is None or isinstance(arguments, VLM):
        return arguments
    model: VLM = construct_class(arguments)
    return model


def names(arguments: Sequence[str] | None) -> list[str]:
    """Names that stand apart, between commas, or as a list in brackets."""
    return [name for part in arguments or [] for name in re.split(r"[\[\],\s]+", part) if name]


def nearest(name: str, known: Sequence[str]) -> str:
    """The most similar of what there is: by the whole, or by what stands after the last dot."""
    last = name.rsplit(".", 1)[-1]
    ending = [option for option in known if option.rsplit(".", 1)[-1] == last]
    return difflib.get_close_matches(name, ending or known, n=1, cutoff=0.0)[0]


def _unknown(option: str, options: Sequence[str]) -> str:
    return f"unknown option '{option}'; the nearest is '{nearest(option, options)}'"


def one_line(message: str, options: Sequence[str], explain: Explain = _unknown) -> str:
    """A parser's message as one line that says what would be right."""
    text = " ".join(message.split())
    unknown = (
        re.search(r"(?:Key|Group key|Option) '([\w.]+)' is not expected", text)
        or re.search(r"[Uu]nrecognized arguments?: -*([\w.]+)", text)
        or re.search(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>[\w.]+)'", text)
    )
    if unknown:
        return explain(".".join(unknown.groups()), options)
    of_vlm = re.match(r"""Parser key "((?:model\.)?vlm)": (.*)""", text)
    if of_vlm and (line := _one_line_of_vlm(*of_vlm.groups())):
        return line
    choice = re.search(r"""Parser key "([\w.]+)": Expected a typing.Literal\[(.*)\]\. Got value: (.*)""", text)
    if choice:
        key, values, value = choice.group(1), re.findall(r"'([^']*)'", choice.group(2)), choice.group(3)
        return f"{key} must be {' or '.join(values)}, not '{value}'; the nearest is '{nearest(value, values)}'"
    kind = re.search(r"""Parser key "([\w.]+)": Expected a <class '(\w+)'>\. Got value: (.*)""", text)
    if kind:
        return f"{kind.group(1)} must be {KINDS.get(kind.group(2), kind.group(2))}, not '{kind.group(3)}'"
    optional = re.search(
        r"""Parser key "([\w.]+)": .*Subtypes: \[<class '(\w+)'>, <class 'NoneType'>\].*Given value: (.*)""", text
    )
    if optional:
        kind_name = KINDS.get(optional.group(2), optional.group(2))
        return f"{optional.group(1)} must be {kind_name}, or null, not '{optional.group(3)}'"
    return text


def _one_line_of_vlm(key: str, text: str) -> str | None:
    """A message about the class given as ``vlm`` or ``model.vlm``, or about its arguments.

    Raises:
        Exception: whatever the import of the user's module raises.
    """
    problem = re.search(r"""given class_path '([\w.]+)': (.*?)(?: - Expected a <class 'NoneType'>.*)?$""", text)
    path = problem.group(1) if problem else None
    if path is None:
        unfit = r"Expected a dot import path string|but is abstract|does not correspond to a subclass of VLM"
        value = re.search(rf"(?:{unfit}).* Given value: ([\w.]+)$", text)
        path = value.group(1) if value else None
    if path is None:
        return None
    cls = _class_at(path)
    if isinstance(cls, str):  # why there is none
        return f"unknown VLM '{path}'; {cls}"
    if not (inspect.isclass(cls) and issubclass(cls, VLM)) or inspect.isabstract(cls):
        return f"'{path}' is no VLM: give a class that implements furl_lightning.vlm.VLM"
    if problem is None:
        return None
    name, text = cls.__name__, problem.group(2)
    lacking = re.search(r"the following arguments are required: (\w+)", text)
    if lacking:
        return f"{key} {name} needs --{key}.{lacking.group(1)}" + (
            ": a local path, or a name on the Hugging Face Hub" if lacking.group(1) == "path" else ""
        )
    unknown = re.search(r"Option '(\w+)' is not accepted", text)
    if unknown:
        return f"unknown option '{key}.{unknown.group(1)}'; {name} takes {', '.join(inspect.signature(cls).parameters)}"
    if text.startswith('Parser key "'):
        return one_line(text.replace('Parser key "', f'Parser key "{key}.', 1), [])
    return None


def _class_at(path: str) -> Any:
    """What an import path or the name of one of the package's VLMs names, or why there is none, in words."""
    known = [name for name in vlm.__all__ if inspect.isclass(getattr(vlm, name)) and name != "VLM"]
    known = [name for name in known if issubclass(getattr(vlm, name), VLM)]
    module, _, name = path.rpartition(".")
    if not module:
        return getattr(vlm, name) if name in known else f"the nearest is '{nearest(name, known)}'"
    try:
        imported = importlib.import_module(module)  # of the user's: what it raises keeps its traceback
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        return f"there is no module {error.name} in the current folder, on PYTHONPATH, or installed"
    return getattr(imported, name, f"module {module} has no {name}")
