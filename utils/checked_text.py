"""JSON and CSV files between stages, with a checksum that other programs can ignore.

A JSON object's last entry, `sha256`, is the checksum of the others. A CSV table's last column, `checksum`, is the
CRC-32 of the row and of all rows after it, so that changed digits and lost rows are both found. Files without a
checksum are read too, because people write them by hand.
"""

import csv
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import damaged, read_text, save_text
from utils.tables import csv_table, read_csv

CHECKSUM = "checksum"


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object of plain values whole; tuples become lists."""
    save_text(path, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """The text that `save_json` writes."""
    plain = json.loads(json.dumps(content))
    return json.dumps({**plain, "sha256": _sha256(plain)}, indent=1) + "\n"


def load_json(path: Path, made_by: str) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where the file is missing, was changed or holds no object."""
    try:
        content = json.loads(read_text(path, made_by))
    except (ValueError, RecursionError) as error:
        raise damaged(path, made_by, str(error)) from None
    if not isinstance(content, dict):
        raise damaged(path, made_by, "expected a table of values by name")
    if "sha256" in content and content.pop("sha256") != _sha256(content):
        raise damaged(path, made_by, "its checksum does not match")
    return content


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV table whole; a float64 comes back exactly (repr)."""
    cells = [[str(row[name]) for name in columns] for row in rows]
    checked = [[*row, checksum] for row, checksum in zip(cells, _checksums(cells), strict=True)]
    save_text(path, csv_table([*columns, CHECKSUM], checked))


def load_table(path: Path, columns: Sequence[str], made_by: str, may_lack: int = 0) -> list[dict[str, str]]:
    """The rows of a CSV table, which may lack so many of the last columns: all of them, or none.

    Raises UserError where it is missing or not text; ValueError where it has other columns, no row (as a table that
    was cut off after its heading), or was changed.
    """
    try:
        heading, *rows = read_csv(read_text(path, made_by)) or [[]]
    except csv.Error as error:
        raise ValueError(error) from None
    if may_lack and CHECKSUM in heading and len(heading) == len(columns) - may_lack + 1:  # of an earlier version
        columns = columns[:-may_lack]
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
