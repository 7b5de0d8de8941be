"""Modules that the user names."""

from __future__ import annotations

import importlib
from types import ModuleType

from furl_lightning.utils.errors import BadInput


class NoModule(BadInput):
    """There is no module of a name that the user gave.

    Args:
        module: which is missing: that one, or a package that it is in.
    """

    def __init__(self, module: str) -> None:
        super().__init__(f"there is no module {module} in the current folder, on PYTHONPATH, or installed")
        self.module = module


def import_module(name: str) -> ModuleType:
    """A module; what its own code raises keeps its traceback.

    Raises:
        NoModule: there is none.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise NoModule(error.name) from None
