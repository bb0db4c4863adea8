"""A genetic search as its files tell it: populations, masks, and the generation that it is at.

No process holds a state that the files do not: recorder, explorers and whoever looks on open the same search, on any
number of machines, and go on from it at any time.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from configures.base import Config
from dataset.images import Images, prepared
from models import files as model_files
from models.opening import Stage
from models.strong_model import graph_of, load_strong_model, load_strong_split, show_if_few
from modules import files as module_files
from modules.fast.convolution import population_dtype, say_if_without_compiler
from modules.kernel_importance import check_importance_fits
from modules.population_outputs import image_batches, population_outputs
from search.genetic import files
from search.genetic.kernel_groups import GenomeLayout, KernelGroups, genome_layout, kernel_groups
from search.genetic.log import Generation, is_over
from search.genetic.operators import first_population, next_generation
from search.gradient.files import last_round_kernels
from utils.device import PRECISIONS, precision_name
from utils.errors import UserError
from utils.estimate import is_worth_measuring, say_estimate, seconds_of
from utils.files import set_aside, sha256_of
from utils.given_places import check_room, free_bytes, readable
from utils.locks import check_nobody_holds, keep_there
from utils.progress import say
from utils.recorded_settings import record_or_compare

MEASURED_MODULES = 4  # that an estimate of the time rests on
FILE_OVERHEAD = 160  # bytes: an array file's header and its checksum


@dataclass(frozen=True)
class GeneticSearch:
    """The search of one model and dataset."""

    stage: Stage
    layout: GenomeLayout
    groups: tuple[KernelGroups, ...]  # each class's
    images: Images  # the validation images that it scores on

    @property
    def config(self) -> Config:
        """The settings."""
        return self.stage.config

    @property
    def dtype(self) -> torch.dtype:
        """What modules are evaluated in: what is fast here, but of a search that began in float32 or bfloat16, that.

        Which of the two is fast depends on the processor, and a search may be taken from one to another; only where
        float32 is asked for, nothing else will do. Raises UserError if the recorded settings are damaged.
        """
        if self.stage.dtype != torch.bfloat16:
            return self.stage.dtype
        file = files.settings(self.stage.artifacts)
        recorded = str(file.load().get("precision")) if file.exists() else ""
        return PRECISIONS.get(recorded, population_dtype(torch.bfloat16, self.stage.device))

    # The populations
    def masks(self, generation: int, target_class: int) -> np.ndarray:
        """The unit masks (population, U) bool of one class's population, True = kept, as they are on the disk.

        Raises UserError if the population is missing or damaged; changes nothing.
        """
        file = files.population(self.stage.artifacts, generation, target_class)
        return self.groups[target_class].decode(file.load(self.config.population, self.layout.num_genes))

    def breed(self, generation: int, target_class: int) -> np.ndarray:
        """The masks of one class's population, which is in its file afterwards, for the processes that search.

        It follows from the population and the fitness of the generation before, so a damaged file is simply made again.
        Raises UserError if that fitness is missing or damaged.
        """
        return self.groups[target_class].decode(self._population(generation, target_class))

    def _population(self, generation: int, target_class: int) -> np.ndarray:
        config, seed = self.config, self.stage.seed
        file = files.population(self.stage.artifacts, generation, target_class)
        population = file.load_if_whole(config.population, self.layout.num_genes)
        if population is not None:
            return population
        if generation == 0:
            solution = self._gradient_solution(target_class) if config.init_pop_mode == "gradient" else None
            population = first_population(self.layout, config, seed, target_class, solution)
        else:
            parents = self._population(generation - 1, target_class)
            fitness = files.fitness(self.stage.artifacts, generation - 1).load(config.num_classes, config.population)
            population = next_generation(parents, fitness[target_class], config, seed, target_class, generation)
        file.save(population)
        return population

    def _gradient_solution(self, target_class: int) -> np.ndarray:
        """The genome (genes,) nearest to what the gradient search found. Raises UserError if it found nothing."""
        units = self.layout.units
        kernels = last_round_kernels(self.stage.artifacts).load(self.config.num_classes, units.num_kernels)
        return self.groups[target_class].encode(kernels[target_class][units.first_kernels])

    # Where it is
    def num_scored(self) -> int:
        """How many generations, from 0 on, have their fitness file."""
        generation = 0
        while files.fitness(self.stage.artifacts, generation).exists():
            generation += 1
        return generation

    def has_ended(self) -> bool:
        """Whether the recorder has ended a search of at least as many generations as are asked for now."""
        end = files.end(self.stage.artifacts).load_if_there()
        return end is not None and end.generations >= self.config.generations

    def check_checkpoint(self, checkpoint: int) -> None:
        """Raises UserError for a generation that is not there to go back to."""
        scored = self.num_scored()
        if not 0 <= checkpoint < scored:
            there = f"generations 0 to {scored - 1} are there" if scored else "no generation is there yet"
            raise UserError(f"--checkpoint {checkpoint}: expected a scored generation; {there}")

    # Starting and going on
    def start(self, *, fresh: bool, checkpoint: int | None, patience: int | None) -> list[Generation]:
        """The log's rows of what is scored: bring the files to where the search starts or goes on.

        Args:
            fresh: set an earlier search aside.
            checkpoint: forget what came after this generation.
            patience: see `is_over`.

        Raises UserError if there is no room, or what is there was made with other settings.
        """
        if fresh:
            self.set_old_aside()
        if checkpoint is not None:
            self.check_checkpoint(checkpoint)
        self.check_room()
        show_if_few(self.images, [str(number) for number in range(self.config.num_classes)])
        self.record_settings()
        rows = self.resume(checkpoint=checkpoint, patience=patience)
        self.say_expected(self.config.generations + 1 - len(rows))
        return rows

    def say_expected(self, generations: int) -> None:
        """Say what some generations take, by few modules of the first class on one batch of images.

        The time is that of one core, if all modules of a generation were new ones.
        """
        config, count = self.config, len(self.images)
        modules, units = config.num_classes * config.population, self.layout.units
        what = f"{generations} generations of {modules:,} modules, on one core"
        more_bytes = bytes_of_scoring(config, units.num_kernels, count)
        instead = "lower population, generations or search_images, or take --method gradient"
        seconds = 0.0
        if is_worth_measuring(graph_of(config).flops * modules * generations * count):
            strong = load_strong_model(config, self.stage.artifacts, self.stage.device)
            genomes = first_population(self.layout, replace(config, init_pop_mode="random"), self.stage.seed, 0)[
                :MEASURED_MODULES
            ]
            masks = self.groups[0].decode(genomes)
            images = prepared(self.images, self.stage.device, self.dtype)
            batches = image_batches(strong, images)
            measured = seconds_of(
                lambda: population_outputs(strong, masks, [0] * len(masks), images, batches=batches[:1])
            )
            seconds = measured / len(masks) * len(batches) * modules * generations
        say_estimate(what, seconds, more_bytes=more_bytes, instead=instead)

    def record_settings(self) -> None:
        """Write the settings beside the files, or compare them with those that are there.

        Raises UserError listing the differences if the files were made with others.
        """
        artifacts = self.stage.artifacts
        made_with = {
            **self.config.part_of("genetic search"),
            "seed": self.stage.seed,
            "precision": precision_name(self.dtype),
            "strong_model_sha256": check_importance_fits(artifacts),
            "kernel_importance_sha256": sha256_of(module_files.kernel_importance(artifacts).path),
            "images_crc32": self.images.fingerprint,
        }
        if self.config.init_pop_mode == "gradient":
            made_with["gradient_kernels_sha256"] = sha256_of(last_round_kernels(self.stage.artifacts).path)
        record_or_compare(files.settings(artifacts), made_with)

    def set_old_aside(self) -> None:
        """Rename the folder of an earlier search, if there is one. Raises UserError while explorers work in it."""
        artifacts, folder = self.stage.artifacts, files.folder(self.stage.artifacts)
        if folder.exists():
            roles = [files.explorer_role(artifacts, target_class) for target_class in range(self.config.num_classes)]
            check_nobody_holds([role.lock for role in roles], "--fresh sets the search aside")
            print(f"the old search is now {set_aside(folder)}", flush=True)

    def check_room(self) -> None:
        """Say what a search and its modules take on the disk, and warn if the modules may not fit.

        Raises UserError if there is no room for the search's own files, which are all needed.
        """
        artifacts = self.stage.artifacts
        folder, modules = files.folder(artifacts), module_files.sets_folder(artifacts)
        needed = bytes_of_search(self.config, self.layout.num_genes, len(self.images))
        of_modules = self.config.num_classes * model_files.entire_model(artifacts).path.stat().st_size  # if all is kept
        say(f"the search takes at most {readable(needed)} below {folder}")
        say(f"its modules take at most {readable(of_modules)} below {modules}")
        there = _bytes_below(folder, "gen_*")
        check_room(folder, max(0, needed - there), "lower generations, population or search_images")
        missing = max(0, needed - there) + max(0, of_modules - _bytes_below(modules, "class_*"))
        if (free := free_bytes(folder)) < missing:
            print(
                f"warning: {readable(free)} are free: the modules may not fit when the search ends; "
                "make room until then"
            )

    def resume(self, *, checkpoint: int | None, patience: int | None) -> list[Generation]:
        """The log's rows of the generations that are scored, and so where the search goes on.

        Forgets what came after `checkpoint`, if one is given, and an earlier end if there is more to do now: the
        explorers, which look at the files alone, follow. Raises UserError for a log that lacks a generation.
        """
        if checkpoint is not None:
            self._forget_after(checkpoint)
        size = self.config.num_classes, self.config.population
        for generation in range(self.num_scored()):
            file = files.fitness(self.stage.artifacts, generation)
            fitness = file.load_if_whole(*size)  # a damaged one is removed, and scored again
            if fitness is None:
                break
            keep_there(file.path, partial(file.save, fitness))
        rows = self._scored_rows()
        end = files.end(self.stage.artifacts)
        if end.load_if_there() is not None and not is_over(rows, self.config.generations, patience):
            end.remove()
        return rows

    def _scored_rows(self) -> list[Generation]:
        scored, log = self.num_scored(), files.log(self.stage.artifacts)
        if scored == 0:
            return []
        rows = log.load()
        if len(rows) < scored:
            raise UserError(
                f"{log.path} has {len(rows)} generations, {scored} are scored: "
                f"set the search aside and start anew with: {log.made_by}"
            )
        size, classes = self.config.population, self.config.num_classes
        for row in rows:
            if len(row.ensemble) != classes or not all(0 <= chromosome < size for chromosome in row.ensemble):
                raise log.damaged(f"generation {row.generation}: expected {classes} chromosomes below {size}")
        return rows[:scored]

    def _forget_after(self, checkpoint: int) -> None:
        """Remove the later generations: their fitness before the rest, so that no explorer takes them for scored
        meanwhile, and from the last one on, so that no gap is left if this is interrupted."""
        artifacts = self.stage.artifacts
        files.end(artifacts).remove()
        log = files.log(artifacts)
        there = max(self.num_scored(), len(log.load_if_there()))  # more rows if a generation's fitness was lost
        later = range(there, checkpoint, -1)  # the last one is bred, not scored
        for generation in later:
            files.fitness(artifacts, generation).remove()
        for generation in later:
            for target_class in range(self.config.num_classes):
                files.outputs(artifacts, generation, target_class).remove()
                files.population(artifacts, generation, target_class).remove()
        if log.exists():
            log.save(log.load()[: checkpoint + 1])


def add_start_options(parser: ArgumentParser) -> None:
    """What scripts take that start the search, or go on with it; see `started`."""
    parser.add_argument(
        "--early_stop", action="store_true", help="end when `patience` generations bring nothing better"
    )
    parser.add_argument("--checkpoint", type=int, help="go back to this generation and score the later ones again")
    parser.add_argument("--fresh", action="store_true", help="set an earlier search's files aside and start anew")


def started(stage: Stage, arguments: Namespace) -> tuple[GeneticSearch, list[Generation], int | None]:
    """The search, the rows of what is scored, and the patience: its files are where it starts or goes on.

    Raises UserError for options that do not go together, and as `GeneticSearch.start` does.
    """
    if arguments.fresh and arguments.checkpoint is not None:
        raise UserError("--fresh starts anew, --checkpoint goes on from an old search: give one of them")
    patience, search = stage.config.patience if arguments.early_stop else None, open_search(stage)
    return search, search.start(fresh=arguments.fresh, checkpoint=arguments.checkpoint, patience=patience), patience


def open_search(stage: Stage) -> GeneticSearch:
    """The search of a stage's model and dataset.

    Raises UserError if importance, dataset or a layer is not there, or the images are not the strong model's.
    """
    say_if_without_compiler(stage.dtype, stage.device)
    model_files.entire_model(stage.artifacts).check_is_there()
    config, units = stage.config, graph_of(stage.config).units
    layout = genome_layout(units, config)
    file = module_files.kernel_importance(stage.artifacts)
    groups = tuple(kernel_groups(layout, row) for row in file.load(config.num_classes, units.num_kernels))
    images = load_strong_split(config, stage.artifacts).valid.first(config.search_images)
    return GeneticSearch(stage, layout, groups, images)


def known_outputs(
    search: GeneticSearch, generation: int, target_class: int, masks: np.ndarray
) -> tuple[bool, tuple[np.ndarray, np.ndarray] | None]:
    """Whether a population's outputs are all there, and what is known of them: masks (m, U), and their outputs (m, n).

    Known are those in their own file, else those of the generation before. Removes outputs that nobody comes back to.
    """
    artifacts, size = search.stage.artifacts, (search.config.population, len(search.images))
    # Before this generation's outputs, with which it may be scored.
    files.outputs(artifacts, generation - search.config.keep_outputs, target_class).remove()
    if (there := files.outputs(artifacts, generation, target_class).load_if_whole(*size)) is not None:
        return True, (masks, there)
    if generation == 0 or (last := files.outputs(artifacts, generation - 1, target_class).load_if_whole(*size)) is None:
        return False, None
    return False, (search.breed(generation - 1, target_class), last)


def save_outputs(search: GeneticSearch, generation: int, target_class: int, outputs: np.ndarray) -> None:
    """Write a population's outputs (population, images). Raises UserError if they are NaN or infinite."""
    if not np.isfinite(outputs).all():
        raise UserError(
            f"class {target_class}, generation {generation}: a module's outputs are NaN or infinite; "
            f"retrain the strong model, or use float32 if precision is bfloat16"
        )
    files.outputs(search.stage.artifacts, generation, target_class).save(outputs)


def _bytes_below(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern)) if folder.is_dir() else 0


def bytes_of_scoring(config: Config, num_kernels: int, num_images: int) -> int:
    """What scoring a generation holds in memory: outputs, their levels, masks, and the levels of survivors."""
    modules, level = config.num_classes * config.population, 1 if config.population <= 255 else 4
    survivors = config.num_classes // 2 * min(config.survivors_max, config.population**2)
    return modules * (num_images * (4 + 2 * level) + num_kernels) + survivors * num_images * level


def bytes_of_search(config: Config, num_genes: int, num_images: int) -> int:
    """What all files of a search take that goes on to its last generation."""
    chromosomes, generations = config.num_classes * config.population, config.generations + 1
    outputs = chromosomes * num_images * 4 * min(config.keep_outputs + 1, generations)  # the new one before the oldest
    array_files = (2 * config.num_classes + 1) * generations * FILE_OVERHEAD
    return generations * chromosomes * (num_genes + 8) + outputs + array_files
