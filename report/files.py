"""What is made to be looked at."""

from collections.abc import Sequence
from pathlib import Path

from utils.artifacts import Artifacts


def folder(artifacts: Artifacts) -> Path:
    """`report`: index.html, and the figures beside it."""
    return artifacts.folder / "report"


def flops_table(artifacts: Artifacts, *only: str) -> Path:
    """What every network costs, as CSV; next to it is a Markdown file of the same name. `only`: a module set."""
    return artifacts.folder / f"{'_'.join(['flops', *only])}.csv"


def trade_off(artifacts: Artifacts, part: str, *, method: str | None = None, sets: Sequence[str] = ()) -> Path:
    """Accuracy lost against the size of modules, on the images of a part, as CSV; its figure is next to it.

    `method`, or the module sets `sets`, are given if they alone were measured.
    """
    only = f"_method_{method}" if method else f"_sets_{'+'.join(sets)}" if sets else ""  # no set's name has a +
    return artifacts.folder / f"trade_off_{part}{only}.csv"
