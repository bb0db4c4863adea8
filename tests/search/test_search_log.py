"""The search's log: exact numbers, the best generation, when a search is over."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from search.genetic.log import Generation, best_generation, describe, is_over
from search.gradient.log import Round, knows, smallest_that_knows
from utils.artifacts import TableFile
from utils.errors import UserError


def log_at(path: Path) -> TableFile[Generation]:
    return TableFile(path, "the recorder", Generation)


def rows_of(*fitness: float) -> list[Generation]:
    return [Generation(n, 0.5, 0.25, value, 0.6, 0.1, 9, 99, (0, 3), 1.5, 0.9, 0.75) for n, value in enumerate(fitness)]


def test_the_file_is_a_plain_table(tmp_path: Path) -> None:
    log_at(tmp_path / "search_log.csv").save(rows_of(0.5))
    heading, row = (tmp_path / "search_log.csv").read_text().splitlines()
    assert heading == (
        "generation,accuracy,distance,fitness,kernels_kept,mean_fitness,"
        "final_ensembles,ensembles_scored,ensemble,seconds,auc_mean,auc_least,checksum"
    )
    assert re.fullmatch(r"0,0\.5,0\.25,0\.5,0\.6,0\.1,9,99,0 3,1\.5,0\.9,0\.75,[0-9a-f]{8}", row)
    lines = describe(rows_of(0.5)[0], "best so far: 0 of 50", "2 processes of this machine").splitlines()
    assert lines[0].startswith("generation   0  accuracy 50.00%  distance 0.2500") and max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("accuracy", "precision", 1),
        lambda text: text.replace("0.25", "a quarter", 1),
        lambda text: text.replace(",0 3,", ",0 x,", 1),
        lambda text: text.replace("\n1,", "\n2,"),
        lambda text: text.rsplit(",", 2)[0],
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("0.25", "0.75", 1),
        lambda text: text.rsplit("\n", 2)[0] + "\n",
        lambda text: "".join(line.rsplit(",", 1)[0] + "\n" for line in text.splitlines()).replace("1.5", "nan"),
    ],
)
def test_a_damaged_log_is_refused(tmp_path: Path, change) -> None:
    path = tmp_path / "search_log.csv"
    log_at(path).save(rows_of(0.5, 0.6))
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(UserError, match=r"cannot use .*search_log\.csv: .*again with: the recorder"):
        log_at(path).load()


def test_the_earliest_of_the_best_generations() -> None:
    assert best_generation(rows_of(0.1, 0.5, 0.5, 0.3)).generation == 1
    assert best_generation(rows_of(0.1)).generation == 0


def test_when_a_search_is_over() -> None:
    assert not is_over([], 0, 1)
    assert is_over(rows_of(0.1), 0, None)
    assert not is_over(rows_of(0.1, 0.2), 2, None)
    assert is_over(rows_of(0.1, 0.2, 0.3), 2, None)
    assert not is_over(rows_of(0.5, 0.5), 9, 2)  # one generation brought nothing better
    assert is_over(rows_of(0.5, 0.5, 0.4), 9, 2)
    assert not is_over(rows_of(0.5, 0.4, 0.6), 9, 2)
    assert not is_over(rows_of(0.5, 0.5, 0.4), 9, None)


def test_the_modules_to_patch_with_are_small_and_know_their_classes() -> None:
    def row(number: int, kept: float, below: float, explained: float) -> Round:
        measured = {"auc_below": below, "explained_least": explained}
        return Round(number, kept, kept, 0.5, 9, 8, 8, 10, 1.0, **measured)

    rounds = [row(0, 0.5, 0.001, 0.95), row(1, 0.4, 0.02, 0.8), row(2, 0.3, 0.021, 0.9), row(3, 0.2, 0.01, 0.79)]
    assert [knows(each) for each in rounds] == [True, True, False, False]
    assert smallest_that_knows(rounds) is rounds[1]
    assert smallest_that_knows(rounds[2:]) is rounds[2]
    assert rounds[1].asked_for(rounds) == "keep 40%"
    assert replace(rounds[1], budget="flops").asked_for(rounds) == "keep 40% of the FLOPs"
