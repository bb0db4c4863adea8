"""What is made to be looked at."""

from pathlib import Path

from utils.artifacts import Artifacts


def folder(artifacts: Artifacts) -> Path:
    """`report`: index.html, and the figures beside it."""
    return artifacts.folder / "report"


def flops_table(artifacts: Artifacts) -> Path:
    """What every network costs, as CSV; a Markdown file of the same name stands beside it."""
    return artifacts.folder / "flops.csv"


def trade_off(artifacts: Artifacts, part: str) -> Path:
    """Accuracy lost against the size of modules, on the images of a part, as CSV; its figure stands beside it."""
    return artifacts.folder / f"trade_off_{part}.csv"
