"""What recorder and explorers must agree on: settings, seed, strong model, images; and the generation they are at."""

from dataclasses import asdict
from typing import Any

from configures.base import Config
from dataset.datasets import Images
from search.genetic.log import Generation, is_over, load_end, load_log, save_log
from search.genetic.populations import last_gradient_round
from utils.disk import check_room, readable
from utils.errors import UserError
from utils.files import damaged, set_aside, sha256_of
from utils.locks import check_nobody_holds
from utils.recorded_settings import agree_on, check_importance_fits, fingerprint
from utils.stage import Stage

FILE_OVERHEAD = 160  # bytes: an array file's header and its checksum

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


def agree_on_settings(stage: Stage, images: Images) -> None:
    """Write the search's settings beside its files, or compare with those that are there.

    Raises UserError listing the differences where the files were made with others.
    """
    config = asdict(stage.config)
    settings: dict[str, Any] = {name: config[name] for name in SEARCH_SETTINGS}
    settings["seed"] = stage.seed
    settings["precision"] = stage.precision
    settings["strong_model_sha256"] = check_importance_fits(stage.artifacts)
    settings["kernel_importance_sha256"] = sha256_of(stage.artifacts.kernel_importance.path)
    settings["images_crc32"] = fingerprint(images)
    if stage.config.init_pop_mode == "gradient":
        settings["gradient_kernels_sha256"] = sha256_of(last_gradient_round(stage).path)
    again = stage.artifacts.command("scripts/run_module_search.py", "--fresh")
    agree_on(stage.artifacts.search_settings, settings, again=again)


def set_old_search_aside(stage: Stage) -> None:
    """Rename the folder of an earlier search, if there is one. Raises UserError while explorers work in it."""
    artifacts = stage.artifacts
    if artifacts.search_folder.exists():
        explorers = [artifacts.explorer_role(target_class) for target_class in range(stage.config.num_classes)]
        check_nobody_holds([role.lock for role in explorers], "--fresh sets the search aside")
        print(f"the old search is now {set_aside(artifacts.search_folder)}", flush=True)


def bytes_of_search(config: Config, num_genes: int, num_images: int) -> int:
    """What all files of a search take that goes on to its last generation."""
    chromosomes, generations = config.num_classes * config.population, config.generations + 1
    outputs = chromosomes * num_images * 4 * min(config.keep_outputs + 1, generations)  # the new one before the oldest
    files = (2 * config.num_classes + 1) * generations * FILE_OVERHEAD
    return generations * chromosomes * (num_genes + 8) + outputs + files


def check_room_for_search(stage: Stage, num_genes: int, num_images: int) -> None:
    """Say what a search takes on the disk. Raises UserError where that much is not free, or taken by it already."""
    folder = stage.artifacts.search_folder
    needed = bytes_of_search(stage.config, num_genes, num_images)
    print(f"the search takes at the most {readable(needed)} below {folder}", flush=True)
    there = sum(path.stat().st_size for path in folder.glob("gen_*")) if folder.is_dir() else 0
    check_room(folder, max(0, needed - there), "lower generations, population or search_images")


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
    _check_last_fitness(stage)
    rows = _scored_rows(stage)
    end = load_end(stage.artifacts.search_end, stage.artifacts.command("module_recorder.py"))
    if end is not None and not is_over(rows, stage.config.generations, patience):
        stage.artifacts.search_end.unlink(missing_ok=True)
    return rows


def _check_last_fitness(stage: Stage) -> None:
    """Remove the fitness of the last generation if it is damaged: it is scored again from its outputs."""
    scored = scored_generations(stage)
    if scored:
        stage.artifacts.fitness(scored - 1).load_if_whole(stage.config.num_classes, stage.config.population)


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
