"""What recorder and explorers must agree on: settings, seed, strong model, images; and the generation they are at."""

import json
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import damaged, read_text, save_text, sha256_of
from utils.search_log import Generation, is_over, load_end, load_log, save_log
from utils.stage import Stage

# The settings that change what a search finds. How long it runs, and what is made of it, may change on the way.
SEARCH_SETTINGS = (
    "groups",
    "groups_wide",
    "wide_layer",
    "init_pop_mode",
    "active_ratios_sensitive",
    "active_ratios",
    "rank_scale",
    "sensitive_layers",
    "population",
    "parents",
    "elites",
    "mutation",
    "search_images",
    "accuracy_thresholds",
    "survivors_min",
    "survivors_max",
    "alpha",
    "gamma",
)


def agree_on_settings(stage: Stage, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write the search's settings beside its files, or compare with those that are there.

    Raises UserError listing the differences where the files were made with others.
    """
    config = asdict(stage.config)
    settings: dict[str, Any] = {name: config[name] for name in SEARCH_SETTINGS}
    settings["seed"] = stage.seed
    settings["precision"] = str(stage.dtype).removeprefix("torch.")
    settings["strong_model_sha256"] = sha256_of(stage.artifacts.entire_model.path)
    settings["kernel_importance_sha256"] = sha256_of(stage.artifacts.kernel_importance.path)
    settings["images_crc32"] = zlib.crc32(labels.tobytes(), zlib.crc32(np.ascontiguousarray(pixels)))
    text = json.dumps(settings, indent=1) + "\n"
    path = stage.artifacts.search_settings
    if not path.exists():
        save_text(path, text)
        return
    again = stage.artifacts.command("scripts/run_module_search.py", "--fresh")
    try:
        there, here = json.loads(read_text(path, again)), json.loads(text)
        if not isinstance(there, dict):
            raise ValueError("expected a table of settings")
    except (ValueError, RecursionError) as error:
        raise damaged(path, again, str(error)) from None
    different = [
        f"{name}: {there.get(name)} there, {here.get(name)} now" for name in here if there.get(name) != here[name]
    ]
    if different:
        raise UserError(
            f"{stage.artifacts.search_folder} holds a search with other settings ({'; '.join(different)}): "
            f"use the same, or set the old one aside with: {again}"
        )


def scored_generations(stage: Stage) -> int:
    """How many generations, from 0 on, have their fitness file."""
    generation = 0
    while stage.artifacts.fitness(generation).exists():
        generation += 1
    return generation


def check_checkpoint(stage: Stage, checkpoint: int) -> None:
    """Raises UserError for a generation that is not there to go back to."""
    scored = scored_generations(stage)
    if not 0 <= checkpoint < scored:
        there = f"generations 0 to {scored - 1} are there" if scored else "no generation is there yet"
        raise UserError(f"--checkpoint {checkpoint}: expected a scored generation; {there}")


def resume_search(stage: Stage, *, checkpoint: int | None, patience: int | None) -> list[Generation]:
    """The log's rows of the generations that are scored, and so where the search goes on.

    Forgets what came after `checkpoint`, where one is given, and an earlier end where there is more to do now: the
    explorers, which look at the files alone, follow. Raises UserError for a checkpoint that is not there, and for a log
    that lacks a generation.
    """
    if checkpoint is not None:
        check_checkpoint(stage, checkpoint)
        _forget_after(stage, checkpoint)
    rows = _scored_rows(stage)
    end = load_end(stage.artifacts.search_end, stage.artifacts.command("module_recorder.py"))
    if end is not None and not is_over(rows, stage.config.generations, patience):
        stage.artifacts.search_end.unlink(missing_ok=True)
    return rows


def _scored_rows(stage: Stage) -> list[Generation]:
    config, artifacts = stage.config, stage.artifacts
    scored = scored_generations(stage)
    if scored == 0:
        return []
    again = artifacts.command("scripts/run_module_search.py", "--fresh")
    rows = load_log(artifacts.search_log, again)
    if len(rows) < scored:
        raise UserError(
            f"{artifacts.search_log} has {len(rows)} generations, {scored} are scored: "
            f"set the search aside and start anew with: {again}"
        )
    for row in rows:
        if len(row.ensemble) != config.num_classes or not all(0 <= c < config.population for c in row.ensemble):
            expected = f"{config.num_classes} chromosomes below {config.population}"
            raise damaged(artifacts.search_log, again, f"generation {row.generation}: expected {expected}")
    return rows[:scored]


def _forget_after(stage: Stage, checkpoint: int) -> None:
    """Remove the later generations: their fitness before the rest, so that no explorer takes them for scored meanwhile,
    and from the last one on, so that no gap is left if this is interrupted."""
    artifacts = stage.artifacts
    artifacts.search_end.unlink(missing_ok=True)
    later = range(scored_generations(stage), checkpoint, -1)  # the last one is bred, not scored
    for generation in later:
        artifacts.fitness(generation).path.unlink(missing_ok=True)
    for generation in later:
        for target_class in range(stage.config.num_classes):
            artifacts.outputs(generation, target_class).path.unlink(missing_ok=True)
            artifacts.population(generation, target_class).path.unlink(missing_ok=True)
    if artifacts.search_log.exists():
        rows = load_log(artifacts.search_log, artifacts.command("scripts/run_module_search.py", "--fresh"))
        save_log(artifacts.search_log, rows[: checkpoint + 1])
