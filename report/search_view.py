"""A running search as its files show it: the generation, the best so far, which classes are done, the time left."""

import textwrap
import time
from dataclasses import dataclass

import numpy as np

from configures.base import Config
from report.words import duration
from search.genetic import files as genetic_files
from search.genetic.log import Generation, SearchEnd, best_generation, describe
from utils.artifacts import Artifacts
from utils.tables import WIDTH

RECENT = 5  # generations that the time of the next ones is guessed from
BAR = 30  # characters


@dataclass(frozen=True)
class SearchView:
    """One look at a search's files."""

    rows: list[Generation]  # that are scored
    generations: int  # the last generation there can be
    end: SearchEnd | None
    populations: list[int]  # the classes whose population of the next generation is there
    outputs: list[int]  # the classes whose outputs of it are there, too
    num_classes: int
    seconds_since_change: float | None  # since a file of the search was written; None = there is none

    @property
    def seconds_left(self) -> float | None:
        """Until all generations are scored, at the pace of the last few; None before the first one is."""
        if not self.rows:
            return None
        pace = float(np.median([row.seconds for row in self.rows[-RECENT:]]))
        return pace * (self.generations + 1 - len(self.rows))


def look(config: Config, artifacts: Artifacts) -> SearchView:
    """What the search's files say now. Raises UserError where the log is damaged."""
    rows = genetic_files.log(artifacts).load_if_there()
    generation, classes = len(rows), range(config.num_classes)
    end = genetic_files.end(artifacts).load_if_there()
    times = []
    for path in genetic_files.folder(artifacts).glob("*") if genetic_files.folder(artifacts).is_dir() else ():
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # an explorer removed or renamed it meanwhile
            continue
    return SearchView(
        rows=rows,
        generations=end.generation if end else config.generations,
        end=end,
        populations=[c for c in classes if genetic_files.population(artifacts, generation, c).exists()],
        outputs=[c for c in classes if genetic_files.outputs(artifacts, generation, c).exists()],
        num_classes=config.num_classes,
        seconds_since_change=max(0.0, time.time() - max(times)) if times else None,
    )


def view_lines(view: SearchView) -> list[str]:
    """The look in a few lines of at most WIDTH characters for people."""
    if view.seconds_since_change is None:
        return ["no search yet"]
    scored = len(view.rows)
    filled = round(BAR * min(1.0, scored / (view.generations + 1)))
    bar = "#" * filled + "." * (BAR - filled)
    lines = [f"[{bar}] {scored} of {view.generations + 1} generations scored"]
    if view.rows:
        best = best_generation(view.rows)
        for which, row in (("last", view.rows[-1]), ("best", best)):
            lines += [f"{which}:", *describe(row).splitlines()]
        waited = view.rows[-1].generation - best.generation
        lines.append(f"generations without a better ensemble: {waited}")
    if view.end:
        how = "for want of improvement" if view.end.early_stop else "all generations are scored"
        return [*lines, f"the search is over: {how}"]
    lines += textwrap.wrap(f"generation {scored}: {who_is_at_work(view)}", WIDTH, subsequent_indent="    ")
    left = view.seconds_left
    known = "known after the first generation" if left is None else f"at most {duration(left)}"
    lines.append(f"time left: {known}")
    lines.append(f"last file written {duration(view.seconds_since_change)} ago")
    return lines


def who_is_at_work(view: SearchView) -> str:
    """Whom the next generation waits for."""
    awaited = [c for c in range(view.num_classes) if c not in view.outputs]
    if not awaited:
        return "all outputs are there, the recorder scores them"
    running = [c for c in awaited if c in view.populations]
    said = [f"outputs of {len(view.outputs)} of {view.num_classes} classes are there"]
    if running:
        said.append(f"explorers run the modules of class {', '.join(map(str, running))}")
    if still := [c for c in awaited if c not in view.populations]:
        said.append(f"class {', '.join(map(str, still))} to come")
    return "; ".join(said)
