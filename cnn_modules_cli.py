"""The command `cnn-modules`: list the stage scripts, or run one of them.

    cnn-modules
    cnn-modules train --model simcnn_x0_25 --dataset digits

The second line runs `python train.py --model simcnn_x0_25 --dataset digits`, from any folder.
"""

import ast
import difflib
import os
import shutil
import sys
import textwrap
from pathlib import Path

TOP = Path(__file__).resolve().parent


def scripts() -> dict[str, Path]:
    """The stage scripts by the names that the command takes.

    Returns:
        Paths by name, in the order of the folders. A name is the file's, without `.py`; a second file of the same name
        has its folder's name in front, as in `patch_for_weak_model/train`.
    """
    patterns = "*.py", "preprocess/*.py", "scripts/*.py", "experiments/**/*.py"
    found = [path for pattern in patterns for path in sorted(TOP.glob(pattern))]
    named: dict[str, Path] = {}
    for path in found:
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8"):
            named[f"{path.parent.name}/{path.stem}" if path.stem in named else path.stem] = path
    return named


def main() -> None:
    """Run the script that the first word names, with the other words as its options; or list all scripts."""
    named = scripts()
    if not named:
        _refuse(f"no stage scripts in {TOP}: install the project from its source tree, pip install -e .")
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        print("usage: cnn-modules SCRIPT [OPTIONS]; cnn-modules SCRIPT --help lists the options\n")
        width, columns = max(map(len, named)) + 2, max(60, shutil.get_terminal_size().columns)
        for name, path in named.items():
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            print(
                textwrap.fill(
                    text.split("\n")[0], columns, initial_indent=f"{name:{width}}", subsequent_indent=" " * width
                )
            )
        return
    name, *options = sys.argv[1:]
    if name not in named:
        close = difflib.get_close_matches(name, named, n=1)
        _refuse(f"no script {name}: {f'did you mean {close[0]}? ' if close else ''}cnn-modules lists all scripts")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(named[name]), *options])  # noqa: S606


def _refuse(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
