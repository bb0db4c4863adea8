"""The kinds of files that stages hand to each other, and the folder of one model and dataset that they lie in.

Which files there are stands in each room's `files.py`: a function of `Artifacts` per file, which names its path, its
content and the command that makes it.

JSON and CSV files have a checksum that other programs can ignore. A JSON object's last entry, `sha256`, is that of the
others. A CSV table's last column, `checksum`, is the CRC-32 of the row and of all rows after it, so that changed digits
and lost rows are both found. Files without a checksum are read too, because people write them by hand.
"""

import csv
import dataclasses
import hashlib
import json
import math
import shlex
import typing
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from configures.setting import is_of_kind
from utils import files
from utils.errors import DamagedFile, MissingFile, UserError
from utils.tables import csv_table, read_csv

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CHECKSUM = "checksum"
Row = TypeVar("Row", bound="DataclassInstance")


@dataclass(frozen=True)
class ArtifactFile:
    """A file of the contract: its presence means that it is whole."""

    path: Path
    made_by: str  # the command that makes it, for error messages

    def exists(self) -> bool:
        """Whether it is there, and so whole."""
        return self.path.exists()

    def check_is_there(self) -> None:
        """Raises UserError, naming the command that makes it, where it is not."""
        if not self.exists():
            raise files.missing(self.path, self.made_by)

    def remove(self) -> None:
        """Remove it if it is there."""
        self.path.unlink(missing_ok=True)

    def damaged(self, reason: str) -> UserError:
        """The error for content that its stage would not write."""
        return files.damaged(self.path, self.made_by, reason)


@dataclass(frozen=True)
class ArrayFile(ArtifactFile):
    """A `.npy` file."""

    dtype: str

    def save(self, array: np.ndarray) -> None:
        """Write it whole; the dtype is the contract's."""
        files.save_array(self.path, array.astype(self.dtype, copy=False))

    def load(self, *shape: int | None) -> np.ndarray:
        """Its checked content; None = any length along that axis."""
        return files.load_array(self.path, dtype=self.dtype, shape=shape, made_by=self.made_by)

    def load_if_whole(self, *shape: int | None) -> np.ndarray | None:
        """Its checked content, or None where it is not there; for what is made again: a damaged file is removed."""
        try:
            return self.load(*shape)
        except MissingFile:
            return None
        except DamagedFile:
            self.remove()
            print(f"damaged, so removed and made again: {self.path}", flush=True)
            return None


@dataclass(frozen=True)
class CheckpointFile(ArtifactFile):
    """A `.pth` file: a dict of tensors and plain values that loads with `weights_only=True`."""

    def save(self, state: dict[str, Any]) -> None:
        """Write it whole."""
        files.save_checkpoint(self.path, state)

    def load(self) -> dict[str, Any]:
        """Its checked content, on the CPU."""
        return files.load_checkpoint(self.path, self.made_by)


@dataclass(frozen=True)
class TableFile(ArtifactFile, Generic[Row]):
    """A `.csv` log: one row per dataclass instance, numbered 0, 1, 2 ... by the dataclass's first field.

    Fields with a default, the last ones, may be NaN.
    """

    row: type[Row]

    def save(self, rows: Sequence[Row]) -> None:
        """Write it whole; a float comes back exactly."""
        names = [field.name for field in dataclasses.fields(self.row)]
        save_table(self.path, names, [{name: _cell(getattr(row, name)) for name in names} for row in rows])

    def load(self) -> list[Row]:
        """Its rows, one or more. Raises UserError where it is missing, damaged, or holds no finite, numbered rows."""
        hints = typing.get_type_hints(self.row)
        kinds = {field.name: hints[field.name] for field in dataclasses.fields(self.row)}
        needed = [field.name for field in dataclasses.fields(self.row) if field.default is dataclasses.MISSING]
        rows = []
        try:
            for number, texts in enumerate(load_table(self.path, list(kinds), self.made_by)):
                row = self.row(**{name: _value(text, kinds[name]) for name, text in texts.items()})
                values = vars(row)
                is_wrong = values[needed[0]] != number or any(
                    isinstance(value, float) and not math.isfinite(value) and (name in needed or not math.isnan(value))
                    for name, value in values.items()
                )
                if is_wrong:
                    raise ValueError(f"expected finite values of {self.row.__name__.lower()} {number} in row {number}")
                rows.append(row)
        except (ValueError, OverflowError) as error:
            raise self.damaged(f"not a {self.path.stem.replace('_', ' ')}: {error}") from None
        return rows

    def load_if_there(self) -> list[Row]:
        """Its rows; none where it is not there yet."""
        return self.load() if self.exists() else []


def _cell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(text: str, kind: Any) -> Any:
    """A cell's value of the annotation `kind`: int, float, or a tuple of ints."""
    return kind(text) if isinstance(kind, type) else tuple(map(int, text.split()))


@dataclass(frozen=True)
class JsonFile(ArtifactFile):
    """A `.json` file: plain values by name."""

    def save(self, content: Mapping[str, Any]) -> None:
        """Write it whole; tuples become lists."""
        save_json(self.path, content)

    def load(self) -> dict[str, Any]:
        """Its checked content."""
        return load_json(self.path, self.made_by)


@dataclass(frozen=True)
class RecordFile(ArtifactFile, Generic[Row]):
    """A `.json` file that holds one dataclass instance; what has a default may be lacking in it."""

    kind: type[Row]

    def save(self, record: Row) -> None:
        """Write it whole."""
        save_json(self.path, dataclasses.asdict(record))

    def load(self) -> Row:
        """What it says. Raises UserError where it is missing, damaged, or holds other values."""
        try:
            return record_of(load_json(self.path, self.made_by), self.kind)
        except ValueError as error:
            raise self.damaged(str(error)) from None

    def load_if_there(self) -> Row | None:
        """What it says, or None where it is not there yet."""
        return self.load() if self.exists() else None


def record_of(content: dict[str, Any], kind: type[Row]) -> Row:
    """A dataclass instance of plain values. Raises ValueError for values that are not its own."""
    kinds, missing = typing.get_type_hints(kind), dataclasses.MISSING
    may_lack = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not missing or field.default_factory is not missing
    }
    if not kinds.keys() - may_lack <= content.keys() <= kinds.keys():
        raise ValueError(f"expected {', '.join(kinds)}, found {', '.join(content)}")
    values = {name: _plain(value, kinds[name]) for name, value in content.items()}
    wrong = [name for name, value in values.items() if not _is_of_kind(value, kinds[name])]
    if wrong:
        raise ValueError(f"expected other values of {', '.join(wrong)}")
    return kind(**values)


def _plain(value: Any, kind: Any) -> Any:
    """A value of a JSON file as a field of `kind` has it."""
    nested = _nested(kind)
    if nested is not None and isinstance(value, dict):
        return record_of(value, nested)
    return tuple(value) if isinstance(value, list) else value


def _nested(kind: Any) -> Any:
    """The dataclass of a field's annotation, which may be `| None`; None for other annotations."""
    return next((each for each in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(each)), None)


def _is_of_kind(value: Any, kind: Any) -> bool:
    nested = _nested(kind)
    if nested is not None:
        return isinstance(value, nested) or (value is None and nested is not kind)
    return isinstance(value, dict) if typing.get_origin(kind) is dict else is_of_kind(value, kind)


@dataclass(frozen=True)
class Role:
    """Work that one process at a time may do."""

    name: str  # for people
    lock: Path
    writes: tuple[Path, ...] = ()  # patterns of the names of files that nobody else writes


@dataclass(frozen=True)
class Artifacts:
    """Where the files of one model and dataset lie below `root_dir/data`, and the commands that make them."""

    root_dir: Path
    model: str
    dataset: str
    assignments: tuple[str, ...] = ()  # the `--set NAME=VALUE` of this run, which hints repeat

    @property
    def folder(self) -> Path:
        """`data/MODEL_DATASET`."""
        return self.root_dir / "data" / f"{self.model}_{self.dataset}"

    @property
    def locks_folder(self) -> Path:
        """The locks of all stages, beside the folder, which may be set aside as a whole."""
        return self.root_dir / "data" / "locks" / f"{self.model}_{self.dataset}"

    def command(self, script: str, *more: str) -> str:
        """The command line of a stage for this model and dataset, with the settings of this run."""
        sets = [f"--set {shlex.quote(assignment)}" for assignment in self.assignments]
        return " ".join(["python", script, "--model", self.model, "--dataset", self.dataset, *sets, *more])

    def role(self, name: str, lock: str, *writes: Path) -> Role:
        """The role `name` of this model and dataset, with the lock file `lock`."""
        return Role(f"{name} of {self.model}_{self.dataset}", self.locks_folder / f"{lock}.lock", writes)


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object of plain values whole; tuples become lists."""
    files.save_text(path, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """The text that `save_json` writes."""
    plain = json.loads(json.dumps(content))
    return json.dumps({**plain, "sha256": _sha256(plain)}, indent=1) + "\n"


def load_json(path: Path, made_by: str) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where the file is missing, was changed or holds no object."""
    try:
        content = json.loads(files.read_text(path, made_by))
    except (ValueError, RecursionError) as error:
        raise files.damaged(path, made_by, str(error)) from None
    if not isinstance(content, dict):
        raise files.damaged(path, made_by, "expected a table of values by name")
    if "sha256" in content and content.pop("sha256") != _sha256(content):
        raise files.damaged(path, made_by, "its checksum does not match")
    return content


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV table whole; a float64 comes back exactly (repr)."""
    cells = [[str(row[name]) for name in columns] for row in rows]
    checked = [[*row, checksum] for row, checksum in zip(cells, _checksums(cells), strict=True)]
    files.save_text(path, csv_table([*columns, CHECKSUM], checked))


def load_table(path: Path, columns: Sequence[str], made_by: str) -> list[dict[str, str]]:
    """The rows of a CSV table.

    Raises UserError where it is missing or not text; ValueError where it has other columns, no row (as a table that
    was cut off after its heading), or was changed.
    """
    try:
        heading, *rows = read_csv(files.read_text(path, made_by)) or [[]]
    except csv.Error as error:
        raise ValueError(error) from None
    if heading not in ([*columns], [*columns, CHECKSUM]):
        raise ValueError(f"expected the columns {', '.join(columns)}")
    if not rows:
        raise ValueError("expected one row or more")
    if any(len(row) != len(heading) for row in rows):
        raise ValueError(f"expected {len(heading)} values in every row")
    cells = [row[: len(columns)] for row in rows]
    if len(heading) > len(columns) and [row[-1] for row in rows] != _checksums(cells):
        raise ValueError("its checksum does not match")
    return [dict(zip(columns, row, strict=True)) for row in cells]


def _checksums(rows: Sequence[Sequence[str]]) -> list[str]:
    checksum, found = 0, []
    for row in reversed(rows):
        checksum = zlib.crc32("\0".join(row).encode(), checksum)
        found.append(f"{checksum:08x}")
    return found[::-1]
