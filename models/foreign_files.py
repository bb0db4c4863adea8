"""Files of weights that others saved, read without running anything that is in them.

torch's own format, old and new, is loaded with `weights_only=True` and never otherwise. What is no such file is refused
in one line that says what it is, and what to save in its place.
"""

import pickle  # for the name of an error alone: nothing is unpickled
import pickletools  # names what a file would run, by reading its opcodes; runs none
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from utils.errors import UserError, reason
from utils.files import check_archive, unreadable

SAVE_WEIGHTS = "save its weights where it was made, torch.save(model.state_dict(), FILE), and give that file"
COPY_AGAIN = "copy or download it again"
PACK_AGAIN = "unpack it, and pack its folder without compression: zip -0 -r FILE.pth FOLDER"
LARGEST_HEADER = 2**27  # bytes of a safetensors file's header, more than any has
OLD_FORMAT = b"\x80\x02\x8a\x0a"  # how torch's format before 1.6 starts: protocol 2, a number of ten bytes
PICKLES_BEFORE_CONTENT = 3  # in the old format: a magic number, a version, facts about the machine
MAGIC = {  # how files of other kinds start
    b"\x1f\x8b": ("a gzip file", "unpack it and give the checkpoint in it"),
    b"BZh": ("a bzip2 file", "unpack it and give the checkpoint in it"),
    b"7z\xbc\xaf": ("a 7z file", "unpack it and give the checkpoint in it"),
    b"\x89HDF": ("an HDF5 file, as Keras saves it", SAVE_WEIGHTS),
    b"\x93NUMPY": ("a NumPy array", SAVE_WEIGHTS),
}
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
UNSAFE_CLASS = re.compile(r"(?:GLOBAL|[Uu]nsafe class|[Uu]nsupported class)\s+([\w.]+)")


def read_foreign_file(path: Path) -> Any:
    """What somebody saved in a checkpoint: tensors on the CPU and plain values, nested as they were saved.

    Raises UserError where the file cannot be read, is of another kind, or holds objects that only running code makes.
    """
    try:
        if path.is_dir():
            raise _refused(path, *_kind_of_folder(path))
        size = path.stat().st_size
        if not path.is_file():
            raise _refused(path, "no file", "expected a checkpoint")  # a pipe would be waited for
        with path.open("rb") as file:
            start = file.read(1024)
        kind = _kind_of(path, start, size)
        if kind:
            raise _refused(path, *kind)
        return _load_safetensors(path) if _is_safetensors(start, size) else _load(path)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; expected a checkpoint") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _refused(path: Path, what: str, next_step: str) -> UserError:
    return UserError(f"{path} is {what}; {next_step}")


def _kind_of_folder(folder: Path) -> tuple[str, str]:
    if (folder / ".metadata").exists():
        convert = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pth"
        return "a checkpoint of torch.distributed", f"make one file of it with: {convert}"
    if (folder / "data.pkl").exists():
        return "an unpacked checkpoint", f"pack it again, without compression: zip -0 -r FILE.pth {folder.name}"
    for place in ("*", "*/*"):
        found = sorted(path for path in folder.glob(place) if path.suffix in SUFFIXES and path.is_file())
        if found:
            return "a folder", f"give one of its files, for example {found[0]}"
    return "a folder without a checkpoint", f"expected a file ({', '.join(SUFFIXES)})"


def _kind_of(path: Path, start: bytes, size: int) -> tuple[str, str] | None:
    """What a file is that is no checkpoint, and what to do; None where it may be one."""
    if size == 0:
        return "empty", COPY_AGAIN
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs in place of the file", "fetch the file with: git lfs pull"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not what it links to", "download the file itself"
    for magic, kind in MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive", "unpack it and give the checkpoint in it"
    if start.startswith(b"PK\3\4"):
        return _kind_of_zip(path, size)
    if start.startswith(OLD_FORMAT) or _is_safetensors(start, size):
        return None
    if start.startswith(b"\x80"):
        return "a pickle of Python, not saved by torch", SAVE_WEIGHTS
    text = start.decode("ascii", "replace")
    if all(letter.isprintable() or letter.isspace() for letter in text.replace("\N{REPLACEMENT CHARACTER}", "\0")):
        return f"a text file that starts with {text[:30]!r}", COPY_AGAIN
    return "no checkpoint of torch, nor a whole safetensors file", f"{COPY_AGAIN}; or {SAVE_WEIGHTS}"


def _kind_of_zip(path: Path, size: int) -> tuple[str, str] | None:
    """The same for a zip file: torch's new format is one, and others are too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist()]
            inside = {name.partition("/")[2] for name in names}
            if "constants.pkl" in inside:
                save = f"torch.save(torch.jit.load({path.name!r}).state_dict(), FILE)"
                return "a TorchScript program", f"where you trust it, save its weights with {save} and give that file"
            if "archive_format" in inside or "serialized_exported_program.json" in names:
                return "an exported program (.pt2), which cannot be loaded without running code", SAVE_WEIGHTS
            if "data.pkl" not in inside:
                return f"a zip file of something else (it holds {names[0] if names else 'nothing'})", SAVE_WEIGHTS
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                return "damaged or compressed, and torch compresses nothing", PACK_AGAIN
            check_archive(archive, size)
    except ValueError:
        return "damaged", COPY_AGAIN
    except Exception:  # whatever a damaged file makes zipfile raise
        return "damaged, or cut off", COPY_AGAIN
    return None


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file starts like one: the length of its header, 8 bytes, and the header, JSON."""
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 1 < length < min(size, LARGEST_HEADER)


def _load_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{path} is a safetensors file: reading it needs safetensors ({reason(error)}); "
            "first run: pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # a damaged file's error is the library's own
        raise _refused(path, f"a damaged safetensors file ({reason(error)})", COPY_AGAIN) from None


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's words on what a hostile file asks of it
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, *_kind_of_pickle(path, str(error))) from None
    except Exception as error:  # whatever a damaged or hostile file makes torch raise
        raise _refused(path, f"damaged ({reason(error):.120})", COPY_AGAIN) from None


def _kind_of_pickle(path: Path, said: str) -> tuple[str, str]:
    """What a pickle is that holds more than tensors and plain values."""
    whole = _class_of_content(path)
    if whole and whole != "collections.OrderedDict":
        return f"a whole pickled object of class {whole}, which only running its code could load", SAVE_WEIGHTS
    unsafe = UNSAFE_CLASS.search(said)
    if unsafe:
        what = f"a checkpoint with an object of class {unsafe[1]} in it, which only running its code could load"
        return what, "save the weights alone, torch.save(model.state_dict(), FILE), and give that file"
    return "no checkpoint that loads safely", SAVE_WEIGHTS


def _class_of_content(path: Path) -> str | None:
    """The class of the object that a checkpoint is as a whole, read and not run; None for a dict or a list."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(name) as file:
                    return _first_global(file)
        with path.open("rb") as file:
            for _ in range(PICKLES_BEFORE_CONTENT):
                for _ in pickletools.genops(file):
                    pass
            return _first_global(file)
    except Exception:  # whatever a damaged pickle makes pickletools raise
        return None


def _first_global(file: IO[bytes]) -> str | None:
    """The class that a pickle starts with; in the old format, a network's class stands behind the word "module"."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            return str(argument).replace(" ", ".")
        if opcode.name not in ("PROTO", "FRAME", "MARK", "BINUNICODE", "BINPUT"):
            return None
    return None
