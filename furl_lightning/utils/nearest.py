"""What a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str], separator: str = ".") -> str:
    """The most similar of what there is: by the whole, or by what stands after the last separator."""
    last = name.rsplit(separator, 1)[-1]
    ending = [option for option in known if option.rsplit(separator, 1)[-1] == last]
    return difflib.get_close_matches(name, ending or known, n=1, cutoff=0.0)[0]
