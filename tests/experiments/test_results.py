"""The published experiments: their stages, what is run again and what is not, their tables; `long`, all of it, tiny."""

import argparse
import csv
import itertools
import json
import math
import runpy
import sys
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TOP, Run, run_script
from result_figures import heuristics_figure, modules_figure
from result_records import DONE, TO_DO, Place, flags
from result_rows import (
    HEURISTICS,
    NOT_MADE_HERE,
    NOTHING,
    PATCHED,
    Search,
    better_and_worse,
    course,
    nearest_rounds,
    over_seeds,
    patch_sizes,
    read_rows,
    without_what,
)
from result_stages import ABLATIONS, PUBLISHED, TINY, Stage, stages_of
from result_tables import END, TABLES, filled, mark
from test_commands import Understood, read_only

from configures.base import load
from models import files as model_files
from patching import files as patch_files
from patching.confidence import Change
from patching.report import PatchedWeakModel, method_entry
from patching.weak_models import WeakKind
from report.figures import Drawing
from report.figures_of_patch_trade_off import PatchTradeOff
from report.figures_of_trade_off import TradeOff
from search.genetic.log import Generation
from utils.errors import UserError
from utils.tables import csv_table

SCRIPT = "experiments/results/results.py"
PLANS = {"published": ("cifar10", PUBLISHED), "tiny": ("digits_5", TINY), "without weak models": ("digits", TINY)}


# The stages
@pytest.mark.parametrize("plan", PLANS)
def test_stages_are_named_once_and_after_what_they_need(plan: str) -> None:
    names: list[str] = []
    for stage in stages_of(*PLANS[plan]):
        assert stage.name not in names
        assert set(stage.needs) <= set(names), stage
        names.append(stage.name)
    assert any(name.endswith("/patch_weak") for name in names) == (plan != "without weak models")


@pytest.mark.parametrize("plan", PLANS)
def test_every_command_is_understood(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_only)
    for script, *words in {command for stage in stages_of(*PLANS[plan]) for command in stage.commands}:
        given = dict(itertools.pairwise(words))
        load(given["--model"], given["--dataset"], [value for o, value in itertools.pairwise(words) if o == "--set"])
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(Understood):
            runpy.run_path(str(TOP / script), run_name="__main__")


def test_a_wrong_command_line_is_refused(run_main: Callable[..., Run], root_dir: Path) -> None:
    for words, expected in (
        (["--dataset", "pets"], "--dataset pets: no network of simcnn_x0_25"),
        (["--only", "*/nothing"], "--only */nothing: no stage is called so"),
        (["--only", "*", "--list"], "not allowed with"),
        (["--tiny", "--publish"], "--publish: expected all stages on cifar10"),
        (["--only", "*", "--publish"], "--publish: expected all stages on cifar10"),
    ):
        run_main(SCRIPT, *words, root=root_dir).refused(expected)


def test_published_tables_are_written_over_only_when_asked_for(run_main: Callable[..., Run], root_dir: Path) -> None:
    tables = [TOP / "experiments" / "results" / "README.md", *(TOP / "experiments" / "results" / "tables").iterdir()]
    before = [path.read_bytes() for path in tables]
    assert run_main(SCRIPT, "--tables", root=root_dir).exit_code == 0
    assert [path.read_bytes() for path in tables] == before
    text = (root_dir / "data" / "results" / "cifar10" / "README.md").read_text(encoding="utf-8")
    assert "Nothing to show yet" in text


def test_a_stage_is_not_run_without_what_it_needs(run_main: Callable[..., Run], root_dir: Path) -> None:
    run = run_main(SCRIPT, "--dataset", "digits", "--tiny", "--only", "*/seed_0/trade_off", root=root_dir)
    run.refused("not done, see above: simcnn_x0_25/seed_0/trade_off; the same command tries them again")
    assert "it needs simcnn_x0_25/seed_0/genetic, simcnn_x0_25/seed_0/gradient; run that before" in run.stdout


# What is run, and what is not
@pytest.fixture
def place(root_dir: Path) -> Place:
    return Place(root_dir / "results", "float32", "python results.py")


def stage_of(script: Path, what: str, *words: str, needs: tuple[str, ...] = ()) -> Stage:
    """A stage that runs a script of the test's own."""
    return Stage("net", "set", "seed_3", what, 3, ((str(script), *words),), needs)


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    """A script that writes down with which words, seed and root_dir it is run, and ends with its last word."""
    script = tmp_path / "counting.py"
    script.write_text(
        "import os, sys\n"
        f"with open({str(tmp_path / 'ran')!r}, 'a') as file:\n"
        "    print(sys.argv[1], os.environ['CNNMOD_SEED'], os.environ['CNNMOD_ROOT_DIR'], file=file)\n"
        "sys.exit(sys.argv[-1] if sys.argv[-1].startswith('error') else 0)\n"
    )
    return script


@pytest.fixture(scope="module")
def run_stages() -> Callable[[Place, list[Stage], list[Stage]], list[str]]:
    return runpy.run_path(str(TOP / SCRIPT))["run_stages"]


def test_what_is_done_is_not_run_again(place: Place, counting: Path, run_stages: Callable[..., None]) -> None:
    stages = [stage_of(counting, "first", "a"), stage_of(counting, "second", "b", needs=("net/seed_3/first",))]
    assert [place.state(stage) for stage in stages] == [TO_DO, TO_DO]
    for _ in range(2):
        assert run_stages(place, stages, stages) == []
    assert [place.state(stage) for stage in stages] == [DONE, DONE]
    ran = (counting.parent / "ran").read_text().splitlines()
    assert ran == [f"{word} 3 {place.root('seed_3')}" for word in "ab"]
    assert "$ python" in place.log(stages[0]).read_text()
    record = place.record("net/seed_3/first").load()
    assert record.commands == (f"python {counting} a",) and record.seed == 3 and record.seconds > 0
    assert record.versions["numpy"] == np.__version__ and record.machine["cores"].isdecimal()
    assert (place.root("seed_3") / "data" / "decoded_dataset").is_dir()

    other = stage_of(counting, "first", "c")
    assert place.state(other) == "made otherwise"
    run_stages(place, [other], [other])
    assert place.state(stages[1]) == "older than net/seed_3/first"


def test_the_others_are_run_where_one_fails(place: Place, counting: Path, run_stages: Callable[..., None]) -> None:
    fails = stage_of(counting, "fails", "a", "error: expected luck")
    stages = [fails, stage_of(counting, "after", "b", needs=(fails.name,)), stage_of(counting, "apart", "c")]
    assert run_stages(place, stages, stages) == ["net/seed_3/fails", "net/seed_3/after"]
    assert [place.state(stage) for stage in stages] == ["interrupted", TO_DO, DONE]
    before = place.record(fails.name).load().seconds
    assert run_stages(place, [fails], stages) == [fails.name]
    assert place.record(fails.name).load().seconds > before


def test_a_stage_goes_on_with_the_command_that_did_not_end_well(
    place: Place, counting: Path, run_stages: Callable[..., None]
) -> None:
    """The first one may begin anew, and undo what the second one had done."""
    needed = stage_of(counting, "needed", "n")
    stage = stage_of(counting, "two", "b", "error: bad luck", needs=(needed.name,))
    stage = replace(stage, commands=((str(counting), "a"), *stage.commands))
    stages, ran = [needed, stage], counting.parent / "ran"
    for _ in range(2):
        assert run_stages(place, stages, stages) == [stage.name]
    assert [line[0] for line in ran.read_text().splitlines()] == list("nabb")
    assert place.record(stage.name).load().ended_well == 1
    place.record(needed.name).path.unlink()
    assert run_stages(place, stages, stages) == [stage.name]
    assert [line[0] for line in ran.read_text().splitlines()] == list("nabbnab")


def test_a_root_takes_the_strong_model_of_another(place: Place) -> None:
    stage = replace(stage_of(Path("none"), "genetic"), root="seed_3_other", other_root="seed_3", taken=("strong",))
    with pytest.raises(UserError, match="missing"):
        place.prepare(stage)
    there, here = place.artifacts(replace(stage, root="seed_3")), place.artifacts(stage)
    files = (model_files.network_settings, model_files.trained_on, model_files.entire_model)
    for number, file in enumerate(files):
        file(there).path.parent.mkdir(parents=True, exist_ok=True)
        file(there).path.write_text(str(number))
    place.prepare(stage)
    assert [file(here).path.read_text() for file in files] == ["0", "1", "2"]


def test_a_root_takes_the_weak_models_of_another_and_no_report_on_them(place: Place) -> None:
    own = stage_of(Path("none"), "fine_tuned_patches")
    stage = replace(own, model="simcnn_x0_25", dataset="digits_5", root="other", other_root="first", taken=("weak",))
    with pytest.raises(UserError, match=r"missing .*training_log\.csv"):
        place.prepare(stage)
    there, here = place.artifacts(replace(stage, root="first")), place.artifacts(stage)
    for target_class in range(5):
        for file in (patch_files.weak_model_log, patch_files.weak_model_settings):
            path = file(there, WeakKind.SIMPLE, target_class).path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        patch_files.weak_model(there, WeakKind.SIMPLE, target_class, 7).path.write_text("weights")
    patch_files.trade_off(there, WeakKind.SIMPLE, "test").write_text("of modules that are not taken")
    place.prepare(stage)
    assert patch_files.weak_model(here, WeakKind.SIMPLE, 4, 7).path.read_text() == "weights"
    assert patch_files.weak_model_log(here, WeakKind.SIMPLE, 4).exists()
    assert not patch_files.trade_off(here, WeakKind.SIMPLE, "test").exists()


def test_flags_are_those_that_matter() -> None:
    assert set(flags()) <= {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}


# The tables
def trade_off(kept: float, lost: float, method: str = "gradient") -> TradeOff:
    return TradeOff(method, f"keep {100 * kept:g}%", kept, kept, lost, 90, 100, 0.4, 10.0, 0.99, 0.9)


def test_the_rounds_nearest_to_a_share_are_shown() -> None:
    kept = (0.8, 0.6, 0.45, 0.3001, 0.2999)
    points = [trade_off(share, number) for number, share in enumerate(kept)]
    points += [replace(trade_off(0.3, 5, "fine-tuned"), target="keep 30%, 500 steps")]
    points += [replace(trade_off(0.7, 9, "genetic"), target="generation 19 of 20")]
    points += [trade_off(0.5675, 2.89, "published (mean, full width)")]
    found = {name: point.points_lost for name, point in nearest_rounds(points)}
    # 45 % is the nearest to 50 and to 40 %; of both of 30 % the last one settled.
    of_gradient = {"gradient, keep 60%": 1, "gradient, keep 45%": 2, "gradient, keep 29.99%": 4}
    assert found == {**of_gradient, "fine-tuned, keep 30%, 500 steps": 5, "genetic, 20 generations": 9}
    assert list(dict(nearest_rounds(points[5:6]))) == ["fine-tuned, keep 30%, 500 steps"]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, points = tmp_path / "points.csv", [trade_off(0.5, 1.25), replace(trade_off(0.3, 2.0), distance=math.nan)]
    names = [field.name for field in fields(TradeOff)]
    path.write_text(csv_table(names, [astuple(point) for point in points]))
    assert str(read_rows(path, TradeOff, "python make.py")) == str(points)
    for text in (csv_table(names, [["gradient"]]), csv_table(["method"], [["gradient"]]), csv_table(names, [names])):
        path.write_text(text)
        with pytest.raises(UserError, match="expected the columns method"):
            read_rows(path, TradeOff, "python make.py")


def weak_model(number: int, right: int, interval: tuple[float, float]) -> PatchedWeakModel:
    """One whose target class gets 50 of 100 images right before, and `right` after."""
    change = Change(interval, interval, interval, (0.0, 0.0), 1.0)
    methods = {
        "before": method_entry(np.array([[90, 10], [50, 50]])),
        "learned": method_entry(np.array([[90, 10], [100 - right, right]]), None, [change]),
    }
    return PatchedWeakModel(("a", "b"), (1,), 200, methods, target_classes=(number,))


def test_patches_that_help_and_harm_are_counted() -> None:
    models = [weak_model(0, 70, (0.1, 0.3)), weak_model(1, 52, (-0.1, 0.2)), weak_model(2, 20, (-0.4, -0.1))]
    assert better_and_worse([*models, weak_model(3, 50, (0.0, 0.0))], "learned") == ["2 / 1", "1 / 1"]


def test_small_modules_are_compared_with_none() -> None:
    def point(target_class: int, method: str, keep: float, f1: float) -> PatchTradeOff:
        return PatchTradeOff(target_class, "name", method, keep, keep, keep / 2, f1, 0.75, 100)

    points = [point(c, "before", 0.0, 0.4) for c in (0, 1)] + [point(c, "learned, no module", 0.0, 0.5) for c in (0, 1)]
    points += [point(0, "module for the patch", 0.2, 0.7), point(1, "module for the patch", 0.2, 0.45)]
    *_, row = patch_sizes(points, points)
    assert row == ["module for the patch, 20%", 2, "20.0", "10.0", "57.5", "75.0", "+7.5", 0, 1]


def test_the_course_of_a_search() -> None:
    rows = [generation(number, fitness) for number, fitness in enumerate((0.1, 0.3, 0.2, 0.4, 0.5))]
    assert course(rows) == ["0.1000", "0.3000", "0.3000", "0.5000", "80.00", "60.0", "0.4000"]
    assert course(rows[:1])[:4] == ["0.1000"] * 4


def generation(number: int, fitness: float) -> Generation:
    return Generation(number, 0.8, 0.4, fitness, 0.6, 0.5, 10, 100, (0, 1), 2.0)


def genetic_stage(root: str) -> Stage:
    """A genetic search of four classes' 40 chromosomes, of which 8 are elites."""
    return Stage("simcnn_x0_25", "digits_5", root, "genetic", 0, (("run_module_search.py", "--set", "elites=8"),))


def test_the_figure_of_the_heuristics() -> None:
    searches = [
        Search(genetic_stage(root), None, without_what(genetic_stage(root)), [generation(0, 0.1), generation(1, end)])
        for root, end in (("seed_0", 0.5), ("seed_0_random_survivors", 0.05))
    ]
    drawing = heuristics_figure(searches)
    assert legend_of(drawing) == ["all heuristics", "without pruning by accuracy"]
    config = load("simcnn_x0_25", "digits_5")
    made = [5 * config.population, 5 * (2 * config.population - 8)]
    assert [row[3:] for row in drawing.rows] == [(made[0], 0.1), (made[1], 0.5), (made[0], 0.1), (made[1], 0.1)]
    assert "all heuristics (seed 0) 0.5000, without pruning by accuracy (seed 0) 0.1000" in drawing.finding


def test_the_figure_of_the_modules() -> None:
    """A seed without a genetic search beside one with it: the legend names each network's way once."""
    points = [trade_off(0.6, 0.5), trade_off(0.4, 0.9), trade_off(0.3, 3.0)]
    searched = [(genetic_stage("seed_0"), points), (genetic_stage("seed_1"), [*points, trade_off(0.7, 4.0, "genetic")])]
    drawing = modules_figure(searched)
    assert legend_of(drawing) == ["simcnn_x0_25, gradient", "simcnn_x0_25, genetic"]
    assert [row[-1] for row in drawing.rows] == [3.0, 0.9, 0.5, 3.0, 0.9, 0.5, 4.0]
    assert drawing.finding.count("with at most one point lost, 40.0% of the kernels are kept (gradient).") == 2


def legend_of(drawing: Drawing) -> list[str]:
    (axes,) = drawing.figure.axes
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_ablation_has_a_name_in_words() -> None:
    assert list(HEURISTICS) == list(ABLATIONS)


def test_seeds_are_put_together() -> None:
    points = [("net", "genetic", trade_off(0.6, 1.0)), ("net", "genetic", trade_off(0.7, 3.0))]
    (row,) = over_seeds([*points, ("other", "genetic", trade_off(0.5, 2.0))])
    assert row == ["net", "genetic", 2, "65.0", "92.00 (91.00 to 93.00)", "2.00 (1.00 to 3.00)"]


def test_a_document_gets_its_tables() -> None:
    document = f"before\n{mark('a')}\nold\n{END}\nbetween\n{mark('b')}\n{END}\n"
    once = filled(document, {"a": "| \\1 |\n", "c": "nowhere\n"})
    assert once == f"before\n{mark('a')}\n| \\1 |\n{END}\nbetween\n{mark('b')}\n{END}\n"
    assert filled(once, {"a": "| \\1 |\n"}) == once


def test_the_document_of_the_results_has_a_place_for_every_table() -> None:
    text = (TOP / "experiments" / "results" / "README.md").read_text(encoding="utf-8")
    assert [name for name in TABLES if mark(name) in text] == [name for name in TABLES if TABLES[name].is_shown]
    assert text.count("<!-- table: ") == text.count(END)


@pytest.mark.parametrize("path", NOT_MADE_HERE, ids=lambda path: path.stem)
def test_figures_that_are_not_made_here_have_a_source(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        heading, *rows = list(csv.reader(file))
    assert tuple(heading) == TABLES["literature"].columns
    for row in rows:
        values = dict(zip(heading, row, strict=True))
        assert values["source"], row
        for name in ("points lost", "kept %", "FLOPs %", "distance %", "precision", "recall", "F1", "others' accuracy"):
            assert not values[name] or math.isfinite(float(values[name])), row


# All of it
@pytest.mark.long
def test_from_the_dataset_to_the_tables(tmp_path: Path) -> None:
    root, words = tmp_path / "root", ("--dataset", "digits_5", "--tiny")
    done = run_script(SCRIPT, *words, root=root, timeout=1800)
    assert done.exit_code == 0, done
    folder = root / "data" / "results" / "digits_5_tiny"
    stages = list(stages_of("digits_5", TINY))
    assert f"{len(stages)} of {len(stages)} stages are done" in done.stdout

    again = run_script(SCRIPT, *words, root=root)
    assert again.exit_code == 0 and "$ python" not in again.stdout, again
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "Not done" not in text and text.count("Nothing to show yet") == 1  # of one seed there is no spread
    rows = {name: table_of(folder / "tables" / f"{name}.csv") for name in TABLES if name != "seeds"}
    assert [row["modules"] for row in rows["modules"]] == [
        "gradient, keep 50%, settled",
        "genetic, 2 generations",
        "fine-tuned, keep 50%, settled, 4 steps",
    ]
    assert all(0 < float(row["kernels %"]) < 100 and 0 < float(row["AUC least"]) <= 1 for row in rows["modules"])
    assert {row["weak models"] for row in rows["patching"]} == {"overly simple", "overfitted", "underfitted"}
    assert {row["target class"] for row in rows["patches"]} == set("01234")
    assert {row["without"] for row in rows["heuristics"]} == {NOTHING, *HEURISTICS.values()}
    drawn = {path.stem.removesuffix("_simcnn_x0_25") for path in (folder / "figures").glob("*.png")}
    assert drawn == {"modules", *PATCHED, "patch_sizes", "heuristics"}
    assert {row["patched by"] for row in rows["patch_sizes"]} >= {"before", "module for the patch, 40%"}
    record = json.loads((folder / "records" / f"{stages[0].name}.json").read_text())
    assert record["done"] and record["precision"] == "float32"
    assert not (folder / "roots" / "seed_0" / "data" / "decoded_dataset" / "digits").is_symlink()
    assert (root / "data" / "decoded_dataset" / "digits").is_dir()


def table_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
