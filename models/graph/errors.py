"""Networks that cannot be used, in one line that a user can act on."""

import os
import sysconfig
import traceback
from pathlib import Path

import torch

from utils.errors import UserError, reason

# Frames in these folders are not the network's: what counts is the innermost line of its own code.
TORCH, HERE = f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}"
STANDARD_LIBRARY = f"{sysconfig.get_path('stdlib')}{os.sep}"


LONGEST = 300  # characters of what an error says: torch's own may hold whole graphs
RANDOM = (
    "the network draws random numbers in evaluation mode, so that it answers the same image differently every time: "
    "expected nn.Dropout, or F.dropout(x, p, training=self.training)"
)


class NetworkRefused(UserError, ValueError):
    """A network that cannot be traced: a UserError and a ValueError. The message, one line, names what, and where."""


def where(error: BaseException) -> str:
    """' (FILE:LINE: code)' of the innermost line of the network's code in an error's traceback; '' without one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_standard = frame.filename.startswith(STANDARD_LIBRARY) and "site-packages" not in frame.filename
        if not is_standard and not frame.filename.startswith((TORCH, HERE, "<")):
            return f" ({frame.filename}:{frame.lineno}: {frame.line})"
    return ""


def refused(what: str, error: BaseException) -> NetworkRefused:
    """The refusal for an error of torch or of the network's own code."""
    said = " ".join(reason(error).split())
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]} ..."
    return NetworkRefused(f"{what}: {said}{where(error)}")
