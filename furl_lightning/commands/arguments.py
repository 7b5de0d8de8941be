"""What the commands share: an exit status, a parser, and one clear line for arguments that cannot be used."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from furl_lightning.commands.class_problem import argument_problem, class_problem
from furl_lightning.envs.rendering import close_gl
from furl_lightning.envs.workers import WorkerError, leave_if_importing_main
from furl_lightning.utils.construct import construct_class
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.nearest import nearest
from furl_lightning.vlm import VLM

Explain = Callable[[str, Sequence[str]], str]
"""Says what is wrong with an option that does not exist, from its name and those that do."""

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def answer(command: str, body: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's body on its arguments; returns the exit status, 2 for bad input.

    Classes of the user's own are found in the current folder, as they are by ``python -m``.
    """
    leave_if_importing_main()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return body(list(sys.argv[1:] if argv is None else argv))
    except BadInput as error:
        print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except WorkerError as error:
        print(f"{error.details}\n{command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
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
    of_class = re.match(r"""Parser key "([\w.]+)": (.*)""", text)
    if of_class and (line := class_problem(*of_class.groups())):
        return line
    text = argument_problem(text) or text
    choice = re.search(r"""Parser key "([\w.]+)": Expected a typing.Literal\[(.*)\]\. Got value: (.*)""", text)
    if choice:
        key, values, value = choice.group(1), re.findall(r"'([^']*)'", choice.group(2)), choice.group(3)
        return f"{key} must be {' or '.join(values)}, not '{value}'; the nearest is '{nearest(value, values)}'"
    kind = re.search(r"""Parser key "([\w.]+)": Expected a <class '(\w+)'>\. Got value: (.*)""", text)
    if kind:
        return f"{kind.group(1)} must be {KINDS.get(kind.group(2), kind.group(2))}, not '{kind.group(3)}'"
    prompts = re.search(r"""Parser key "([\w.]*prompts)": .*Given value: (.*)""", text)
    if prompts:
        return (
            f"{prompts.group(1)} must be sentences by task, {{reach: go}}, or a list of them for a task, "
            f"{{reach: [go, come]}}, not {prompts.group(2)}"
        )
    images = re.search(r"""Parser key "([\w.]*goal_images)": .*Given value: (.*)""", text)
    if images:
        return f"{images.group(1)} must be files by task, {{reach: done.png}}, not {images.group(2)}"
    optional = re.search(
        r"""Parser key "([\w.]+)": .*Subtypes: \[<class '(\w+)'>, <class 'NoneType'>\].*Given value: (.*)""", text
    )
    if optional:
        kind_name = KINDS.get(optional.group(2), optional.group(2))
        return f"{optional.group(1)} must be {kind_name}, or null, not '{optional.group(3)}'"
    return text
