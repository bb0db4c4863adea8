"""The search methods that exist: one line each. Each has a room of its own in this folder, and a script at the top."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A way to find modules."""

    script: str  # that searches to the end in one process; "" where scripts/run_module_search.py starts several
    options: tuple[str, ...]  # of scripts/run_module_search.py, that no other method has


METHODS = {
    "genetic": Method("", ("jobs", "early_stop", "checkpoint")),
    "gradient": Method("module_gradient_search.py", ("keep", "max_loss")),
}
