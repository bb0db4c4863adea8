"""JSON and CSV files that carry a checksum of what they say: a flipped digit would be a number like any other.

Files without one, written by hand or by earlier versions, are read as they are.
"""

import csv
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.files import damaged, read_text

DIGEST = "sha256"  # the last name in a JSON file, of the file as it is without
CHECK = "crc32"  # the last column of a CSV file, of the row's other cells


def json_text(content: Mapping[str, Any]) -> str:
    """A table of plain values as JSON, its checksum in it."""
    return json.dumps({**content, DIGEST: _digest(content)}, indent=1) + "\n"


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """What `json_text` wrote. Raises UserError where the file is missing, is not such a file, or was changed."""
    try:
        content = json.loads(read_text(path, made_by))
        if not isinstance(content, dict):
            raise ValueError("expected a table of names and values")
        if DIGEST in content and content.pop(DIGEST) != _digest(content):
            raise ValueError("its checksum does not match")
    except (ValueError, RecursionError) as error:
        raise damaged(path, made_by, str(error)) from None
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV, with a checksum in each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = list(columns)
    writer.writerow([*columns, CHECK])
    for row in rows:
        cells = [str(row[column]) for column in columns]
        writer.writerow([*cells, _check(cells)])
    return text.getvalue()


def read_csv(path: Path, made_by: str) -> list[dict[str, str]]:
    """The rows that `csv_text` wrote. Raises UserError where the file is missing, or a row is not whole."""
    try:
        columns, *lines = list(csv.reader(io.StringIO(read_text(path, made_by)), strict=True)) or [[""]]
        for number, cells in enumerate(lines):
            if len(cells) != len(columns):
                raise ValueError(f"row {number} has {len(cells)} cells, expected {len(columns)}")
            if columns[-1] == CHECK and cells[-1] != _check(cells[:-1]):
                raise ValueError(f"row {number}: its checksum does not match")
    except (ValueError, csv.Error) as error:
        raise damaged(path, made_by, str(error)) from None
    return [{name: cell for name, cell in zip(columns, cells, strict=True) if name != CHECK} for cells in lines]


def _check(cells: list[str]) -> str:
    return str(zlib.crc32("\0".join(cells).encode()))
