"""Room on the disk is asked for before work is spent."""

from pathlib import Path

import pytest

from utils.errors import UserError
from utils.given_places import check_room, readable


def test_too_little_room_is_refused_with_the_advice(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "there" / "yet", 1, "write less")
    with pytest.raises(UserError, match=r"1048576\.0 GiB are needed, .* are free: write less, or make room"):
        check_room(tmp_path, 2**50, "write less")


def test_bytes_for_people() -> None:
    assert readable(3 * 2**29) == "1.5 GiB"
    assert readable(3 * 2**19) == "1.5 MiB"
    assert readable(2**19 + 1) == "513 KiB"
