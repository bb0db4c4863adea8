"""The results: their commands, the log of what was run, their tables; `long`, all of it, tiny."""

import argparse
import csv
import itertools
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
from result_tables import (
    END,
    HEURISTICS,
    TABLES,
    Ran,
    Results,
    Search,
    baseline_rows,
    course,
    filled,
    heuristics_figure,
    mark,
    method_rows,
    modules_figure,
    nearest_rounds,
    patch_sizes,
    read_rows,
    rose_and_fell,
    spread,
)
from results import Command, commands_of, run_command
from test_commands import Understood, read_only

from configures.base import load
from models import files as model_files
from models.training import Epoch
from patching import files as patch_files
from patching.confidence import Change
from patching.report import PatchedWeakModel, method_entry
from patching.weak_models import WeakKind
from report import files as report_files
from report.figures import Drawing
from report.figures_of_trade_off import PatchTradeOff, TradeOff
from search.genetic.log import Generation
from utils.artifacts import Artifacts, TableFile
from utils.errors import UserError
from utils.tables import csv_table

SCRIPT = "experiments/results/results.py"
PLANS = {"published": ("cifar10", False), "tiny": ("digits_5", True), "without weak models": ("digits", True)}


# The commands
@pytest.mark.parametrize("plan", PLANS)
def test_every_command_is_understood(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, tiny = PLANS[plan]
    commands = commands_of(dataset, tiny=tiny)
    assert len({command.line for command in commands}) == len(commands)
    assert any(command.table == "patching" for command in commands) == (plan != "without weak models")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_only)
    for script, *words in {command.words for command in commands}:
        load(words[1], words[3], [value for option, value in itertools.pairwise(words) if option == "--set"])
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(Understood):
            runpy.run_path(str(TOP / script), run_name="__main__")


def test_a_module_set_is_made_before_it_is_used() -> None:
    made: set[tuple[str, str, str]] = set()
    for command in commands_of("cifar10"):
        for option, name in itertools.pairwise(command.words):
            if option == "--modules":
                assert (command.root, command.model, name) in made, command
            if option == "--as":
                made.add((command.root, command.model, name))


def test_a_wrong_command_line_is_refused(run_main: Callable[..., Run], root_dir: Path) -> None:
    for words, expected in (
        (["--dataset", "pets"], "--dataset pets: no network of the results"),
        (["--table", "methods", "--only", "*genetic*"], "--only *genetic*: no command matches"),
        (["--only", "*/nothing"], "--only */nothing: no command matches"),
        (["--tables", "--list"], "not allowed with"),
        (["--tiny", "--publish"], "--publish: expected all commands on cifar10"),
    ):
        run_main(SCRIPT, *words, root=root_dir).refused(expected)


def test_published_tables_are_written_over_only_when_asked_for(run_main: Callable[..., Run], root_dir: Path) -> None:
    tables = [TOP / "experiments" / "results" / "README.md", *(TOP / "experiments" / "results" / "tables").iterdir()]
    before = [path.read_bytes() for path in tables]
    assert run_main(SCRIPT, "--tables", root=root_dir).exit_code == 0
    assert [path.read_bytes() for path in tables] == before
    text = (root_dir / "data" / "results" / "cifar10" / "README.md").read_text(encoding="utf-8")
    assert "Nothing to show yet" in text


def test_the_log_says_what_was_run(tmp_path: Path, root_dir: Path) -> None:
    """A command of a seed's further root_dir needs the strong model of the first one, and copies it."""
    (script := tmp_path / "script.py").write_text(
        f"import os, sys; open({str(tmp_path / 'ran')!r}, 'a').write(os.environ['CNNMOD_SEED'] + sys.argv[-1])"
    )
    first = Command("modules", "seed_3", 3, "net", (str(script), "--dataset", "set", "a"))
    other = replace(first, root="seed_3_other", words=(*first.words, "b"))
    folder, log = root_dir / "results", TableFile(root_dir / "results" / "log.csv", "python results.py", Ran)
    failing = replace(first, words=(str(tmp_path / "missing.py"),))
    for command, message in ((other, "missing"), (failing, "No such file")):
        with pytest.raises(UserError, match=message):
            run_command(command, folder, log, "float32")
    seconds = run_command(first, folder, log, "float32")
    there, here = (Artifacts(folder / "roots" / root, "net", "set") for root in ("seed_3", "seed_3_other"))
    for file in (model_files.network_settings, model_files.trained_on, model_files.entire_model):
        file(there).path.parent.mkdir(parents=True, exist_ok=True)
        file(there).path.write_text(file(there).path.name)
    run_command(other, folder, log, "float32")
    assert model_files.entire_model(here).path.read_text() == model_files.entire_model(here).path.name
    assert (tmp_path / "ran").read_text() == "3a3b"
    assert [(row.line, row.machine.split(", ")[-1]) for row in log.load()] == [
        (first.line, "float32"),
        (other.line, "float32"),
    ]
    assert log.load()[0].seconds == seconds


# The tables
def trade_off(kept: float, lost: float, method: str = "gradient") -> TradeOff:
    return TradeOff(method, f"keep {100 * kept:g}%", kept, kept, lost, 90, 100, 0.4, 10.0, 0.99, 0.9)


def test_the_rounds_nearest_to_a_share_are_shown() -> None:
    kept = (0.8, 0.6, 0.45, 0.3001, 0.2999)
    points = [trade_off(share, number) for number, share in enumerate(kept)]
    points += [replace(trade_off(0.3, 5, "fine-tuned"), target="keep_30_tuned")]
    points += [replace(trade_off(0.7, 9, "genetic"), target="generation 19 of 20")]
    points += [trade_off(0.5675, 2.89, "published (mean, full width)")]
    found = {name: point.points_lost for name, point in nearest_rounds(points)}
    # 45 % is the nearest to 50 and to 40 %; of both of 30 % the last one settled.
    of_gradient = {"gradient, keep 60%": 1, "gradient, keep 45%": 2, "gradient, keep 29.99%": 4}
    assert found == {**of_gradient, "fine-tuned, keep_30_tuned": 5, "genetic, 20 generations": 9}
    assert list(dict(nearest_rounds(points[5:6]))) == ["fine-tuned, keep_30_tuned"]
    assert spread([91.0, 93.0]) == "92.00 (91.00 to 93.00)"


def test_modules_are_compared_with_the_most_accurate_ones() -> None:
    compared = runpy.run_path(str(TOP / "experiments/trade_off/trade_off.py"))["compared"]
    labels = np.zeros(100, int)
    found = [(replace(trade_off(0.5, 0), right=100 - wrong), np.arange(100) < wrong) for wrong in (16, 10, 10)]
    assert [point.p_best for point in compared(found, labels)] == [2 * 0.5**6, 1, 1]  # six images, all one way


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, points = tmp_path / "points.csv", [trade_off(0.5, 1.25), replace(trade_off(0.3, 2.0), distance=math.nan)]
    names = [field.name for field in fields(TradeOff)]
    path.write_text(csv_table(names, [astuple(point) for point in points]))
    assert str(read_rows(path, TradeOff, "python make.py")) == str(points)
    for text in (csv_table(names, [["gradient"]]), csv_table(["method"], [["gradient"]]), csv_table(names, [names])):
        path.write_text(text)
        with pytest.raises(UserError, match="expected the columns method"):
            read_rows(path, TradeOff, "python make.py")


def test_patches_that_help_and_harm_are_counted() -> None:
    """Of target classes with 50 of 100 images right before the patch."""
    models = []
    for number, right, interval in ((0, 70, (0.1, 0.3)), (1, 52, (-0.1, 0.2)), (2, 20, (-0.4, -0.1)), (3, 50, (0, 0))):
        change = Change(interval, interval, interval, (0.0, 0.0), (0.001, 0.001, 0.001, 1.0))
        learned = method_entry(np.array([[90, 10], [100 - right, right]]), None, [change])
        methods = {"before": method_entry(np.array([[90, 10], [50, 50]])), "learned": learned}
        models.append(PatchedWeakModel(("a", "b"), (1,), 200, methods, target_classes=(number,)))
    assert rose_and_fell(models, "learned") == ["2 / 1", "1 / 1"]


def test_small_modules_are_compared_with_none() -> None:
    def point(target_class: int, method: str, keep: float, f1: float) -> PatchTradeOff:
        return PatchTradeOff(target_class, "name", method, keep, keep, keep / 2, f1, 0.75, 100)

    points = [point(c, "before", 0.0, 0.4) for c in (0, 1)] + [point(c, "learned, no module", 0.0, 0.5) for c in (0, 1)]
    points += [point(0, "gradient", 0.2, 0.7), point(1, "gradient", 0.2, 0.45)]
    *_, row = patch_sizes(points)
    assert row == ["gradient, 20%", 2, "20.0", "10.0", "57.5", "75.0", "+7.5", 0, 1]


def test_methods_are_compared_once_each(tmp_path: Path) -> None:
    """Of candidates and module sets of all root_dirs of a seed: a set that is a candidate has no row of its own."""
    results = Results(tmp_path, "digits", [("net", 0)])
    candidate, paper = trade_off(0.4, 1.0, "taylor"), replace(trade_off(0.5, 2.0, "paper"), right=0, images=0)
    modular = replace(candidate, method="moda", weights=0.25)
    for root, points in (
        ("seed_0", [candidate, replace(candidate, method="module set", target="mine"), paper]),
        ("seed_0_moda", [modular, replace(trade_off(0.3, 1.0), method="module set", target="gradient_flops_20")]),
        ("seed_1", [candidate]),
    ):
        path = report_files.trade_off(results.artifacts("net", root), "test")
        path.parent.mkdir(parents=True)
        names = [field.name for field in fields(TradeOff)]
        path.write_text(csv_table(names, [astuple(point) for point in points]))
    rows = list(method_rows(results))
    assert [row[1:4] for row in rows] == [
        ["", "taylor", "keep 40%"],
        ["by MODA", "moda", "keep 40%"],
        ["by MODA", "module set", "gradient_flops_20"],
    ]
    assert rows[1][4:] == ["40.0", "25.0", "40.0", 91, 90, 100, "1.00", "0.9900", 0, "10"]
    assert {len(row) for row in rows} == {len(TABLES["methods"].columns)}


def test_what_a_patch_is_compared_with_is_counted(tmp_path: Path) -> None:
    """Two of ten weak models were compared: of one the patch is significantly better than this way, of one worse."""
    results = Results(tmp_path, "digits", [("simcnn_x0_25", 0)])
    artifacts = results.artifacts("simcnn_x0_25", "seed_0")
    for target_class, interval in ((0, (0.1, 0.3)), (3, (-0.2, -0.1))):
        history = [Epoch(number, 0.1, 1.0, 0.5, accuracy, 1.0) for number, accuracy in enumerate((0.5, 0.75))]
        patch_files.weak_model_log(artifacts, WeakKind.SIMPLE, target_class).save(history)
        change = Change(interval, interval, interval, (0.0, 0.0), (0.001, 0.001, 0.001, 1.0)).to_json()
        costs = {"flops_per_image": 3_000_000, "fit_flops": 5_000_000_000, "fit_seconds": 0.25 * target_class}
        way = {"f1": 0.5, "others_accuracy": 0.75, **costs, "patch_minus_this": change}
        file = patch_files.baselines(artifacts, "keep_50", WeakKind.SIMPLE, target_class, 1)
        file.save({"ways": {"stacking": way}})
    (row,) = baseline_rows(results)
    assert row == ["simcnn_x0_25", "stacking", 2, "50.0", "75.0", "3.0", "5.0", "0.4", 1, 1, 0]
    assert len(row) == len(TABLES["patch_baselines"].columns)


def generation(number: int, fitness: float) -> Generation:
    return Generation(number, 0.8, 0.4, fitness, 0.6, 0.5, 10, 100, (0, 1), 2.0)


def test_the_course_of_a_search() -> None:
    rows = [generation(number, fitness) for number, fitness in enumerate((0.1, 0.3, 0.2, 0.4, 0.5))]
    assert course(rows) == ["0.1000", "0.3000", "0.3000", "0.5000", "80.00", "60.0", "0.4000"]
    assert course(rows[:1])[:4] == ["0.1000"] * 4


def test_the_figure_of_the_heuristics() -> None:
    searches = [
        Search("net", 0, without, [generation(0, 0.1), generation(1, end)], np.array([50, 92]))
        for without, end in (("nothing", 0.5), ("pruning by accuracy", 0.05))
    ]
    drawing = heuristics_figure(searches)
    assert legend_of(drawing) == ["all heuristics", "without pruning by accuracy"]
    assert [row[3:] for row in drawing.rows] == [(50, 0.1), (92, 0.5), (50, 0.1), (92, 0.1)]
    assert "all heuristics (seed 0) 0.5000, without pruning by accuracy (seed 0) 0.1000" in drawing.finding


def test_the_figure_of_the_modules() -> None:
    """A seed without a genetic search next to one with it: the legend names each network's way once."""
    points = [trade_off(0.6, 0.5), trade_off(0.4, 0.9), trade_off(0.3, 3.0)]
    drawing = modules_figure([("net", 0, points), ("net", 1, [*points, trade_off(0.7, 4.0, "genetic")])], "cifar10")
    assert legend_of(drawing) == ["net, gradient, seeds 0, 1", "net, genetic, seed 1", "paper, genetic, mean"]
    assert [row[-1] for row in drawing.rows] == [3.0, 0.9, 0.5, 3.0, 0.9, 0.5, 4.0]
    assert drawing.finding.count("with at most one point lost, 40.0% of the kernels are kept (gradient).") == 2


def legend_of(drawing: Drawing) -> list[str]:
    (axes,) = drawing.figure.axes
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_document_gets_its_tables() -> None:
    document = f"before\n{mark('a')}\nold\n{END}\nbetween\n{mark('b')}\n{END}\n"
    once = filled(document, {"a": "| \\1 |\n", "c": "nowhere\n"})
    assert once == f"before\n{mark('a')}\n| \\1 |\n{END}\nbetween\n{mark('b')}\n{END}\n"
    assert filled(once, {"a": "| \\1 |\n"}) == once
    text = (TOP / "experiments" / "results" / "README.md").read_text(encoding="utf-8")
    assert [name for name in TABLES if mark(name) in text] == list(TABLES)
    assert text.count("<!-- table: ") == text.count(END) == len(TABLES)


# All of it
@pytest.mark.long
def test_from_the_dataset_to_the_tables(tmp_path: Path) -> None:
    root, words = tmp_path / "root", ("--dataset", "digits_5", "--tiny")
    done = run_script(SCRIPT, *words, root=root, timeout=1800)
    assert done.exit_code == 0, done
    folder, count = root / "data" / "results" / "digits_5_tiny", len(commands_of("digits_5", tiny=True))
    assert f"{count} of {count} commands have succeeded" in done.stdout

    again = run_script(SCRIPT, *words, root=root)
    assert again.exit_code == 0 and "python train.py" not in again.stdout, again
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "Left out" not in text and text.count("Nothing to show yet") == 1  # of one seed there is no spread
    rows = {name: table_of(folder / "tables" / f"{name}.csv") for name in TABLES if name != "seeds"}
    methods = [row["modules"].split(",")[0] for row in rows["modules"]]
    assert methods[:5] == ["gradient"] * 4 + ["genetic"]
    assert set(methods[5:]) <= {"fine-tuned"}  # only those sets that are better than before
    assert all(0 < float(row["kernels %"]) < 100 and 0 < float(row["AUC least"]) <= 1 for row in rows["modules"])
    assert {row["weak models"] for row in rows["patching"]} == {"overly simple", "overfitted", "underfitted"}
    assert {row["without"] for row in rows["heuristics"]} == {"nothing", *(words for _, words in HEURISTICS.values())}
    drawn = {path.stem.removesuffix("_simcnn_x0_25") for path in (folder / "figures").glob("*.png")}
    assert drawn == {"modules", "patch_weak", "patch_overfitted", "patch_underfitted", "patch_sizes", "heuristics"}
    assert {row["patched by"] for row in rows["patch_sizes"]} >= {"before", "gradient, 20%", "gradient, 10%"}
    methods = {(row["strong model trained"], row["method"]) for row in rows["methods"]}
    assert methods >= {("", "taylor"), ("", "moda"), ("", "seam"), ("by MODA", "moda"), ("by MwT", "mwt")}
    assert {row["modules"] for row in rows["methods"]} >= {"keep 40%", "keep 40% of the FLOPs", "gradient_flops_60"}
    assert [row["classes"] for row in rows["sub_tasks"]] == ["2"]
    assert {"patch (learned rule)", "stacking, all logits"} <= {row["way"] for row in rows["patch_baselines"]}
    assert (root / "data" / "decoded_dataset" / "digits").is_dir()


def table_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
