"""What `patching.patched_model` holds, under the name that it had before."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # Imported when asked for: the models know nothing of patching.
    return getattr(importlib.import_module("patching.patched_model"), name)
