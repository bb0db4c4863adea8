"""Networks that cannot be used, in one line that a user can act on."""

import sys
import traceback
from pathlib import Path

import torch

from utils.errors import UserError, reason

# Frames in these folders are not the user's: what counts is the innermost line of the network's own code.
OTHERS_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parent), sys.prefix + "/lib/python", "<")
LIBRARIES = "site-packages"


class NetworkRefused(UserError, ValueError):
    """A network that cannot be traced; the message is one line that says what, and where if it is known."""


def where(error: BaseException) -> str:
    """' (FILE:LINE: code)' of the innermost line of the network's code in an error's traceback; '' without one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_library = LIBRARIES in frame.filename and not frame.filename.startswith(OTHERS_CODE[0])
        if is_library or not frame.filename.startswith(OTHERS_CODE):
            return f" ({frame.filename}:{frame.lineno}: {frame.line})"
    return ""


def refused(what: str, error: BaseException) -> NetworkRefused:
    """The refusal for an error of torch or of the network's own code."""
    return NetworkRefused(" ".join(f"{what}: {reason(error)}{where(error)}".split()))
