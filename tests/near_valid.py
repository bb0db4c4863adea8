"""Content near a valid one, which hypothesis draws: bytes, members of zip archives, and values in JSON."""

import copy
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

STRANGE_BYTES = (
    b"",
    b"\0",
    b"\xff" * 4,
    b"\0" * 7 + b"\x7f",
    b"0",
    b"-1",
    b"9" * 20,
    b"1e999",
    b"nan",
    b"1_0",
    b"\xc2\xb2",
)
STRANGE_VALUES = (None, True, -1, 2**70, 0.5, float("nan"), "", "\ud800", "a" * 99, [], [[1, 2], [3]], {}, {"a": None})
LONGEST_PIECE = 64  # bytes


@st.composite
def near_bytes(draw: st.DrawFn, valid: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """One of `valid`, in which pieces are replaced by others, by nothing, or by the format's own `words`."""
    content = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + LONGEST_PIECE)) | st.just(len(content)))
        repeated = st.just(2 * content[start:end])
        piece = draw(st.sampled_from((*STRANGE_BYTES, *words)) | st.binary(max_size=8) | repeated)
        content = content[:start] + piece + content[end:]
    return content


@st.composite
def near_zip(draw: st.DrawFn, valid: bytes, words: Sequence[bytes] = ()) -> bytes:
    """A zip archive whose pickle, or another member, is changed; all its checksums are right."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as old, zipfile.ZipFile(content, "w") as new:
        pickles = [name for name in old.namelist() if name.endswith("data.pkl")]
        changed = draw(st.sampled_from(pickles) | st.sampled_from(old.namelist()))
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, draw(near_bytes([member], words)) if name == changed else member)
    return content.getvalue()


@st.composite
def near_json(draw: st.DrawFn, valid: bytes) -> bytes:
    """A JSON object some of whose values are of another kind or gone, or its changed bytes; without its checksum."""
    value = json.loads(valid)
    value.pop("sha256", None)
    if draw(st.booleans()):
        return draw(
            near_bytes([json.dumps(value).encode()], [b"null", b"[]", b"{}", b"NaN", b"[" * 3000, b'"\\ud800"'])
        )
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(value) or [(value, "a")]))
        if isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
            holder.pop(key, None)
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(STRANGE_VALUES)))
    return json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in a value of dicts and lists, at any depth."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]
