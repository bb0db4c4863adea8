"""What is made to be looked at."""

from pathlib import Path

from utils.artifacts import Artifacts


def folder(artifacts: Artifacts) -> Path:
    """`report`: index.html, and the figures beside it."""
    return artifacts.folder / "report"


def flops_table(artifacts: Artifacts, *only: str) -> Path:
    """What every network costs, as CSV; next to it is a Markdown file of the same name. `only`: a module set."""
    return artifacts.folder / f"{'_'.join(['flops', *only])}.csv"


def trade_off(artifacts: Artifacts, part: str, *only: str) -> Path:
    """Accuracy lost against the size of modules, on the images of a part, as CSV; its figure is next to it.

    `only` is "method" and its name, or "sets" and their names with + between them, if they alone were measured.
    """
    return artifacts.folder / f"{'_'.join(['trade_off', part, *only])}.csv"
