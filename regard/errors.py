"""The one exception that is meant for the person at the keyboard.

Whatever goes wrong because of what was typed, read or asked for raises `RegardError` with one line that names what is
wrong and what would be right. The command line prints that line and exits with 2; anything else is a bug.
"""

import difflib
from collections.abc import Iterable

_LISTED = 30
"""Names in one message, which is to be read."""


class RegardError(Exception):
    """A mistake in the input, told in one line."""


def unknown(kind: str, name: str, known: Iterable[str]) -> RegardError:
    """An error for a name that is not among the known ones; the nearest come first.

    >>> str(unknown("model", "en-rf", ["en-fr", "g2p"]))
    "no model 'en-rf'; did you mean en-fr? (known: en-fr, g2p)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    listed = ", ".join(names[:_LISTED]) + more if names else "none"
    return RegardError(f"no {kind} {name!r}{hint} (known: {listed})")
