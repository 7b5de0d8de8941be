"""Configuration files: the package's own go by name, and a file may build on others by the key ``base`` at its top.

    base: [mt10_fixed.yaml, ../goal/random.yaml]   # relative to the file that names them, or names such as goal/random
    data:
      env_steps: 50000

A file means its bases in order, each laid over those before it, and then its own settings over them all; a base may
have bases of its own. So ``--config c.yaml``, where ``c.yaml`` has ``base: [a.yaml, b.yaml]``, is ``--config a.yaml
--config b.yaml --config c.yaml``, but for the name of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.nearest import nearest

BASE = "base"
PACKAGE = Path(__file__).resolve().parents[1]


def named() -> dict[str, Path]:
    """The package's own files by name: their paths in ``conf``, without ``.yaml``.

    That folder lies in an installed package, and beside it in a checkout.
    """
    conf = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
    return {str(path.relative_to(conf).with_name(path.stem)): path for path in sorted(conf.rglob("*.yaml"))}


def find(path: str | Path, folder: Path | None = None) -> Path:
    """The file of a path, seen from a folder (the current one), or else of a name of the package's own."""
    seen = Path(path) if folder is None else folder / path
    return seen if seen.is_file() else named().get(str(path), seen)


def expand(paths: Iterable[str | Path]) -> list[str]:
    """The files to be laid over each other, in that order: each of ``paths`` after its bases.

    Raises:
        BadInput: a file is missing or no configuration, its ``base`` is no list of files, or it is a base of itself.
    """
    return [str(file) for path in paths for file in _with_bases(find(path), ())]


def with_paths(argv: Sequence[str]) -> list[str]:
    """Arguments where a path stands in the place of each name after ``--config``, for a parser that reads the files.

    Raises:
        BadInput: a file is missing or no configuration.
    """
    result = []
    for number, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        is_value = number > 0 and argv[number - 1] == "--config"
        if is_value or (option == "--config" and equals):
            path = find(argument if is_value else value)
            read_mapping(path)
            argument = str(path) if is_value else f"--config={path}"
        result.append(argument)
    return result


def load(path: str | Path) -> dict[str, Any]:
    """A file's own settings, without ``base``; ``${name}`` in them stands for the file's value of that name.

    Raises:
        BadInput: it is missing, not a mapping in YAML, or has a ``${name}`` of no value.
    """
    settings = {key: value for key, value in read_mapping(Path(path)).items() if key != BASE}
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
    except OmegaConfBaseException as error:
        raise BadInput(f"{path}: {' '.join(str(error).split())}") from error
    return dict(resolved)


def _with_bases(path: Path, above: tuple[Path, ...]) -> list[Path]:
    """A file after its bases; ``above`` are those that it is a base of."""
    chain = (*above, path)
    if path.resolve() in [file.resolve() for file in above]:
        raise BadInput(f"base: a file cannot be its own base: {' -> '.join(map(str, chain))}")
    bases = read_mapping(path, *above[-1:]).get(BASE, [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise BadInput(f"{path}: base must be a list of files, such as [../goal/random.yaml], not {bases!r}")
    return [file for base in bases for file in _with_bases(find(base, path.parent), chain)] + [path]


def read_mapping(path: Path, named_by: Path | None = None) -> dict[str, Any]:
    """What is in a file; ``base`` and ``${name}`` stand for themselves.

    Raises:
        BadInput: it is missing, or not a mapping in YAML.
    """
    try:
        settings = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        place = f"seen from {Path.cwd()}" if named_by is None else f"a base of {named_by}"
        name = str(path).removesuffix(".yaml").removeprefix("conf/")
        near = nearest(name, list(named()), "/")
        raise BadInput(f"there is no file {path} ({place}), nor a configuration named so; near is '{near}'") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"{path} is no configuration: it must be a mapping such as 'data: {{tasks: [reach]}}'")
    return settings
