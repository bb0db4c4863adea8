"""Names that others chose are shown, and never obeyed by a terminal or a spreadsheet."""

import io
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.checkpoints import load_foreign_checkpoint
from utils.errors import UserError, run
from utils.progress import say
from utils.tables import EscapingStream, for_stream, printable, show_table, unescaped

HOSTILE = "a\x1b[2J\rb\x9b1m\u202ec\u2028d\x07"
SHOWN = r"a\x1b[2J\rb\x9b1m\u202ec\u2028d\x07"


@given(st.text())
def test_what_is_printable_stands_on_one_line_and_moves_no_cursor(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) == "Cc" or unicodedata.bidirectional(c)[:2] in ("RL", "LR") for c in shown)
    assert all(c in shown for c in text if c.isprintable())


def test_ordinary_names_stay_as_they_are() -> None:
    for name in (
        "caf\u00e9",
        "\u0141\u00f3d\u017a",
        "\u6f22\u5b57",
        "\u05d0\u05d1",
        "a b",
        "\\x1b",
        "\U0001f469\u200d\U0001f52c",
    ):
        assert printable(name) == name


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_lines_are_wrapped_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "python train.py --model simcnn_x0_25 --dataset digits --set epochs=3 --set batch_size=8 --fresh"
    text = f"short\n{'word ' * 40}with: {command}; {'x' * 100}"
    assert for_stream(text, io.StringIO()) == text
    lines = for_stream(text, Terminal()).split("\n")
    assert lines[0] == "short" and f"    {command};" in lines and f"    {'x' * 100}" in lines
    assert all(len(line) <= 80 for line in lines if "word" in line) and " ".join(map(str.strip, lines)) == " ".join(
        text.split()
    )
    monkeypatch.setattr(sys, "stderr", Terminal())

    def refuse() -> None:
        raise UserError("expected " + "this or that, " * 20)

    with pytest.raises(SystemExit):
        run(refuse)
    assert max(map(len, sys.stderr.getvalue().splitlines())) <= 80


def test_a_stream_escapes_and_stays_a_stream(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w+", encoding="utf-8") as file:
        stream = EscapingStream(file)
        print(HOSTILE, "tab\there", file=stream, flush=True)
        stream.writelines(["\x1b", "\n"])
        unescaped(stream).write("\x1b[1A")
        assert unescaped(file) is file
        assert stream.fileno() == file.fileno() and not stream.isatty() and stream.encoding == "utf-8"
        file.seek(0)
        assert file.read() == f"{SHOWN} tab\there\n\\x1b\n\x1b[1A"


def test_whatever_a_script_prints_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        print(HOSTILE)
        say(HOSTILE)
        show_table(["name\n"], [[HOSTILE]])
        raise UserError(f"{HOSTILE}: expected another")

    before = sys.stdout
    with pytest.raises(SystemExit):
        run(main)
    assert sys.stdout is before
    shown = capsys.readouterr()
    assert shown.out == f"{SHOWN}\n{SHOWN}\n{'name' + chr(92) + 'n':>{len(SHOWN)}}\n{SHOWN}\n"
    assert shown.err.startswith("error: a\\x1b[2J b\\x9b1m") and len(shown.err.splitlines()) == 1


def test_names_in_a_checkpoint(tmp_path: Path, root_dir: Path, run_main: Callable[..., Run]) -> None:
    network, path = nn.Sequential(nn.Conv2d(3, 2, 3)), tmp_path / "weights.pth"
    named = {f"{HOSTILE}\n.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": named, HOSTILE: torch.ones(1)}, path)
    assert f"found at model.{SHOWN}\\n" in load_foreign_checkpoint(network, path).describe()
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 2, 3))\n"
    )
    torch.save({**network.state_dict(), HOSTILE: torch.ones(1)}, path)
    options = ("--network", f"{tmp_path / 'net.py'}:build", "--num_classes", 2, "--checkpoint", path)
    line = run_main("scripts/inspect_network.py", *options, root=root_dir).refused("found a\\x1b[2J", "\\u202ec")
    assert not set("\x1b\x9b\u202e\r\x07") & set(line)


def test_a_stream_is_wrapped_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    run(lambda: print("\x1b"))
    assert out.getvalue() == "\\x1b\n"
