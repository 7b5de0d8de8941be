"""Settings of a part: a frozen dataclass whose fields carry default, help text and range, each written once.

    @dataclass(frozen=True)
    class RelaySettings(Settings, option="model.relay"):
        threshold: Annotated[int, AtLeast(1)] = 2500
        \"\"\"Successes at which the relay ends.\"\"\"

The command line is made from these classes: ``--model.relay.threshold``, with the text under the field as
its help. Ranges are checked wherever a part is made, from the command line or from Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from furl_lightning.utils.errors import BadInput


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may be; an end that is excluded is named so."""

    low: float
    high: float = float("inf")
    without_low: bool = False
    without_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return above and below and abs(value) != float("inf")

    def __str__(self) -> str:
        low = f"{'above' if self.without_low else 'at least'} {self.low:g}"
        if self.high == float("inf"):
            return low
        if not self.without_low and not self.without_high:
            return f"between {self.low:g} and {self.high:g}"
        return f"{low} and {'below' if self.without_high else 'at most'} {self.high:g}"


def AtLeast(low: float) -> Range:
    """Numbers from ``low`` on."""
    return Range(low)


def Above(low: float) -> Range:
    """Numbers greater than ``low``."""
    return Range(low, without_low=True)


def Between(low: float, high: float) -> Range:
    """Numbers from ``low`` to ``high``."""
    return Range(low, high)


def Below(low: float, high: float) -> Range:
    """Numbers from ``low`` on that are less than ``high``."""
    return Range(low, high, without_high=True)


@dataclass(frozen=True)
class Settings:
    """Base of a part's settings.

    Raises:
        BadInput: a value out of its range; names the option.
    """

    option: ClassVar[str] = ""
    """Where the part stands on the command line."""

    def __init_subclass__(cls, option: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.option = option

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint in _hints(cls).items():
            for value, valid in _ranges(getattr(self, name), hint):
                if value not in valid:
                    of = "" if value is getattr(self, name) else "made of numbers "
                    raise BadInput(f"{self.option}.{name} must be {of}{valid}, not {value}")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}


def _ranges(value: Any, hint: Any) -> Iterator[tuple[float, Range]]:
    """The numbers in a value that have a range, with it."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Range) and value is not None:
            yield value, extra
    if get_origin(hint) in (tuple, list):
        for item in value:
            yield from _ranges(item, get_args(hint)[0])
    elif not hasattr(hint, "__metadata__"):  # a union, of a type and None
        for member in get_args(hint):
            yield from _ranges(value, member) if isinstance(value, int | float) else ()
