"""Configuration files that build on others: the key ``base`` at the top level of a file given to ``--config``.

    base: [mt10_fixed.yaml, ../goal/random.yaml]   # relative to the file that names them
    data:
      env_steps: 50000

A file means its bases in order, each laid over those before it, and then its own settings over them all; a base may
have bases of its own. So ``--config c.yaml``, where ``c.yaml`` has ``base: [a.yaml, b.yaml]``, is ``--config a.yaml
--config b.yaml --config c.yaml``, but for the name of the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from furl_lightning.utils.errors import BadInput

BASE = "base"


def expand(paths: Iterable[str | Path]) -> list[str]:
    """The files to be laid over each other, in that order: each of ``paths`` after its bases.

    Raises:
        BadInput: a file is missing or no configuration, its ``base`` is no list of files, or it is a base of itself.
    """
    return [str(file) for path in paths for file in _with_bases(Path(path), ())]


def load(path: str | Path) -> dict[str, Any]:
    """A file's own settings, without ``base``; ``${name}`` in them stands for the file's value of that name.

    Raises:
        BadInput: it is missing, not a mapping in YAML, or has a ``${name}`` of no value.
    """
    settings = {key: value for key, value in _read(Path(path)).items() if key != BASE}
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
    bases = _read(path, *above[-1:]).get(BASE, [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise BadInput(f"{path}: base must be a list of files, such as [../goal/random.yaml], not {bases!r}")
    return [file for base in bases for file in _with_bases(path.parent / base, chain)] + [path]


def _read(path: Path, named_by: Path | None = None) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        place = f"seen from {Path.cwd()}" if named_by is None else f"a base of {named_by}"
        raise BadInput(f"there is no file {path} ({place})") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"{path} is no configuration: it must be a mapping such as 'data: {{tasks: [reach]}}'")
    return settings
