"""What every stage shares: where files live, on which device and with which seed the stages run.

Edit a line here, or set the environment variable beside it for one run. What belongs to one model and dataset stands
in `configures/`.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn


def _refuse(variable: str, wanted: str) -> NoReturn:
    given = os.environ[variable]
    print(f"error: environment variable {variable}: expected {wanted}, given {given!r}", file=sys.stderr)
    sys.exit(2)


def _whole_number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or len(text) > 9:
        _refuse(variable, "a whole number of at most nine digits")
    return int(text)


def _folder(variable: str, default: Path) -> Path:
    text = os.environ.get(variable, str(default))
    if not text:
        _refuse(variable, "the path of a folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        _refuse(variable, "a home folder that is known")


def _config_home() -> Path:
    """Where programs keep a user's settings; a folder that cannot be where the user has no home."""
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError:
        return Path(os.devnull)


_TOP = Path(__file__).resolve().parent

# Scripts in these folders import this file first. Python looks for packages in a script's own folder, then where
# PYTHONPATH leads, and only then where ours are installed: a `utils` or `models` of another project on PYTHONPATH would
# be taken for ours. So the top comes second. Somebody else's program, which has the first say in its own names, is left
# alone.
_script = Path(getattr(sys.modules["__main__"], "__file__", None) or _TOP).resolve()
if any(_script.is_relative_to(_TOP / folder) for folder in ("preprocess", "scripts", "experiments")):
    sys.path.insert(1, str(_TOP))

# The folder whose `data/` holds every checkpoint and array. Default: this repository.
root_dir = _folder("CNNMOD_ROOT_DIR", _TOP)

# Where datasets are looked for, and downloaded to.
dataset_dir = _folder("CNNMOD_DATASET_DIR", root_dir / "data" / "dataset")

# The user's own folder on this machine. It has the record of which networks' Python files ran here.
config_dir = _folder("CNNMOD_CONFIG_DIR", _config_home() / "cnn-module-toolkit")

# "auto" takes CUDA where there is one, else the CPU. Or name one: "cpu", "cuda", "cuda:1", "mps" (of Apple, not tried).
device = os.environ.get("CNNMOD_DEVICE", "auto")

# The arithmetic of training and of module evaluation: "float32", or "bfloat16" with its 8 bits of precision, which is
# faster on some devices; docs/speed.md says where.
precision = os.environ.get("CNNMOD_PRECISION", "float32")

# The seed of everything random, but for the train / valid split, which is fixed for comparability.
seed = _whole_number("CNNMOD_SEED", 0)

# How many module_explorer processes run_module_search.py starts; 0 = one per core (one in all on a GPU).
num_workers = _whole_number("CNNMOD_NUM_WORKERS", 0)

# CPU threads of one module_explorer, each at work on images of its own. One is best when the explorers fill the cores;
# the outputs are the same to the last bit for any number of threads and explorers.
explorer_threads = _whole_number("CNNMOD_EXPLORER_THREADS", 1)

# Seconds that the recorder waits for explorers, and they for it, before giving up with exit code 3.
wait_limit = _whole_number("CNNMOD_WAIT_LIMIT", 86400)

# The seed of the 80 % / 20 % split of the training set: the published one.
split_seed = 1009
