"""What is printed of names that others chose: a terminal must not obey the control characters in them."""

import re
from typing import Any, TextIO

# Control characters but for tab and end of line; what starts a line elsewhere; what turns the direction of writing.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_OR_BLANK = re.compile(f"{_CONTROL.pattern}|[\t\n]")


def printable(text: str) -> str:
    """A name as it can be shown within one line: control characters are escaped, as `\\x1b`."""
    return _CONTROL_OR_BLANK.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class EscapingStream:
    """A text stream on which control characters are escaped; tabs and line ends are not.

    Args:
        stream: what it writes to, and whatever else it is asked for.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        """Write a text, escaped; return its length."""
        self.unescaped.write(_CONTROL.sub(_escaped, text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


def unescaped(stream: TextIO) -> TextIO:
    """The stream for terminal control of our own."""
    return stream.unescaped if isinstance(stream, EscapingStream) else stream
