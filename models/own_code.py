"""A network from a user's own Python file. The file runs, with all that it does, as under `python FILE`.

A network's name comes from the user, who names it on the command line or in a configuration, or from a file between
stages, which may be a stranger's. What the user names may run; the SHA-256 of every file that runs then is recorded, in
a file of the user's own that no data folder brings along. A name from a file runs what is recorded, nothing else.
Its imports find what lies beside it and in the current folder, even where that is called like a package of this
project: many projects have a `utils` and a `models`.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

import torch
from torch import nn

import global_configure
from utils.errors import UserError, reason
from utils.progress import say

# The name of such a network; in brackets what is changed in it (models/adapted.py).
OWN_CODE = re.compile(r"(?P<file>.+\.py):(?P<attribute>\w+)(?P<changes>\[[^\[\]]*\])?")
CLASS_COUNTS = ("num_classes", "n_classes", "num_class", "class_num", "nb_classes", "classes")  # parameters' names
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
AboutToRun = Callable[[Path, bytes], None]  # is told a file and its bytes, and may refuse
Entry = tuple[str, str, str]  # SHA-256 of a file, the function that was called in it or "", and the file's path
MODULE_NAME = "network_file_{}"  # of a file outside of packages: its own name may be one of the standard library's
_unnamed: dict[tuple[Path, str], str] = {}  # files and functions that the user has not named -> how to name them


def named(name: str) -> None:
    """The user names a network, on the command line or in a configuration: a file of the user's own may run."""
    if own := OWN_CODE.fullmatch(name):
        _unnamed.pop((Path(own["file"]).resolve(), own["attribute"]), None)


def not_named(name: str, how: str) -> None:
    """A network's name comes from a file between stages: own code runs if all of it ran on this machine before.

    Args:
        name: of the network.
        how: the option, or the command, by which the user would name it.

    Raises UserError for a user's file that did not run on this machine before, or has changed since.
    """
    if own := OWN_CODE.fullmatch(name):
        path, attribute = Path(own["file"]).resolve(), own["attribute"]
        _unnamed[path, attribute] = how
        if path.is_file():
            check_trusted(entry_of(path, path.read_bytes(), attribute), how)


def network_of_file(path: Path, attribute: str, num_classes: int) -> nn.Module:
    """The network that a function or class in a Python file makes, or the one that the file holds under that name.

    A function gets the number of classes if it has a parameter for it, by one of the names in CLASS_COUNTS or the only
    one that it needs; a function that needs nothing is called without.

    Raises UserError, with the user's file and line, where there is no such file or function, it fails, or it makes
    something else; and for code that neither the user named nor ran on this machine before.
    """
    if not path.is_file():
        raise UserError(f"network {path}:{attribute}: there is no file {path}; expected FILE.py:FUNCTION")
    how = _unnamed.get((path.resolve(), attribute))
    ran: list[Entry] = []

    def about_to_run(file: Path, content: bytes) -> None:
        entry = entry_of(file, content, attribute if file == path.resolve() else "")
        if how is not None:
            check_trusted(entry, how)
        ran.append(entry)

    root, module_name = _import_name(path.resolve())
    with _imports_found_in(root, about_to_run):
        module = _run(path, root, module_name, about_to_run)
        made_by = _definition(module, path, attribute)
        network = made_by if isinstance(made_by, nn.Module) else _call(made_by, path, attribute, num_classes, root)
    if how is None:
        record(ran)
    if not isinstance(network, nn.Module):
        raise UserError(
            f"network {path}:{attribute}: expected a torch.nn.Module, it gives a {type(network).__name__}"
            f"{place_of_definition(path, attribute)}"
        )
    if unusable := _unusable(network):
        raise UserError(f"network {path}:{attribute}{place_of_definition(path, attribute)}: {unusable}")
    return network


def _unusable(network: nn.Module) -> str:
    """Why a network cannot be evaluated and copied as others; empty where it can."""
    if any(nn.parameter.is_lazy(value) for value in (*network.parameters(), *network.buffers())):
        return "the network has lazy layers; run it on images where it is made"
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        return "expected a network of Python code, it is TorchScript; give the code that it was made of"
    return ""


def place_of_definition(path: Path, attribute: str) -> str:
    """' (FILE:LINE)' of a function or class; ' (FILE)' where it is imported from elsewhere."""
    path = path.resolve()
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return f" ({path})"
    lines = [statement.lineno for statement in statements if getattr(statement, "name", None) == attribute]
    return f" ({path}:{lines[-1]})" if lines else f" ({path})"


def _import_name(path: Path) -> tuple[Path, str]:
    """The folder that a file is imported from, and its name there; a package's name is part of that."""
    folder, names = path.parent, [path.stem]
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names) if len(names) > 1 else MODULE_NAME.format(path.stem)


class _AsRead(SourceFileLoader):
    """Runs the bytes of a file that were asked about, and no compiled ones that lie next to it."""

    def __init__(self, name: str, path: str, about_to_run: AboutToRun) -> None:
        super().__init__(name, path)
        self.about_to_run = about_to_run

    def get_code(self, fullname: str) -> CodeType:
        content = self.get_data(self.path)
        self.about_to_run(Path(self.path).resolve(), content)
        return self.source_to_code(content, self.path)


class _Finder(MetaPathFinder):
    """Finds what Python itself would find on its path, and asks about what is not installed."""

    def __init__(self, installed: tuple[str, ...], about_to_run: AboutToRun) -> None:
        self.installed, self.about_to_run = installed, about_to_run

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or not spec.has_location or str(spec.origin).startswith(self.installed):
            return None
        file = Path(str(spec.origin)).resolve()
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _AsRead(spec.loader.name, spec.loader.path, self.about_to_run)
        else:  # an extension, or bytes that are compiled already
            self.about_to_run(file, file.read_bytes())
        return spec


@contextmanager
def _imports_found_in(root: Path, about_to_run: AboutToRun) -> Iterator[None]:
    """Imports find what lies in `root` and in the current folder, also where a loaded module has the same name.

    Afterwards those loaded modules are back. What the file imported goes on living in the file's own names.
    """
    folders = [root, Path.cwd()]

    def is_another(name: str) -> bool:
        """Whether a loaded module is in the way of a file or package in the user's folders."""
        module, (top, *_) = sys.modules[name], name.split(".")
        origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if origin is None or origin.startswith(INSTALLED):
            return False
        theirs = next((f for f in folders if (f / top).is_dir() or (f / f"{top}.py").is_file()), None)
        return theirs is not None and not Path(origin).is_relative_to(theirs)

    hidden = {name: sys.modules[name] for name in list(sys.modules) if is_another(name)}
    tops = {name.split(".")[0] for name in hidden}
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in tops}
    for name in hidden:
        del sys.modules[name]
    path_before, finders_before = sys.path[:], sys.meta_path[:]
    # The rest of the path is as the user has set Python up, but for what the user's folders lie in.
    others = [
        entry for entry in path_before if entry and not any(f.is_relative_to(Path(entry).resolve()) for f in folders)
    ]
    installed = (*INSTALLED, *(f"{entry.rstrip(os.sep)}{os.sep}" for entry in others))
    sys.path[:0] = map(str, folders)
    sys.meta_path.insert(sys.meta_path.index(PathFinder), _Finder(installed, about_to_run))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.meta_path[:] = path_before, finders_before
        for name in [name for name in sys.modules if name.split(".")[0] in tops]:
            del sys.modules[name]
        sys.modules.update(before)


def _run(path: Path, root: Path, module_name: str, about_to_run: AboutToRun) -> ModuleType:
    """The module that a file is, freshly run."""
    sys.modules.pop(module_name, None)
    try:
        if "." in module_name:
            return importlib.import_module(module_name)
        loader = _AsRead(module_name, str(path.resolve()), about_to_run)
        spec = ModuleSpec(module_name, loader, origin=loader.path)
        spec.has_location = True
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename or path}:{error.lineno or 1}: {error.msg}; fix that and try again") from None
    except ImportError as error:
        _fail(f"{path} cannot be run", error, root, "; install what it needs, or stand where its imports start")
    except (Exception, SystemExit) as error:
        _fail(f"{path} cannot be run", error, root)


def _definition(module: ModuleType, path: Path, attribute: str) -> Callable[..., Any]:
    """What the module has under the name `attribute`."""
    name = f"network {path}:{attribute}"
    if not hasattr(module, attribute):
        own = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        ]
        close = get_close_matches(attribute, own, n=1)
        there = f"did you mean {close[0]}?" if close else f"it has {', '.join(own) or 'no function and no class'}"
        raise UserError(f"{name}: there is no {attribute} in {path}: {there}")
    value = getattr(module, attribute)
    if not callable(value):
        raise UserError(f"{name}: expected a function or class that makes a network, {attribute} is {value!r:.60}")
    return value


def _call(made_by: Callable[..., Any], path: Path, attribute: str, num_classes: int, root: Path) -> Any:
    """What a function or class gives for a number of classes."""
    try:
        parameters = list(inspect.signature(made_by).parameters.values())
    except (TypeError, ValueError):  # some functions of C have none
        parameters = []
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    by_name = [p.name for p in parameters if p.name in CLASS_COUNTS and p.kind is not p.POSITIONAL_ONLY]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    place = place_of_definition(path, attribute)
    try:
        if by_name or (takes_any and not needed):
            return made_by(**{(by_name or CLASS_COUNTS)[0]: num_classes})
        if len(needed) == 1 and needed[0].kind is not needed[0].KEYWORD_ONLY:
            return made_by(num_classes)
        if not needed:
            return made_by()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        _fail(f"network {path}:{attribute} with {num_classes} classes fails", error, root, otherwise=place)
    raise UserError(
        f"network {path}:{attribute}: expected a function of num_classes, "
        f"{attribute} needs {', '.join(p.name for p in needed)}{place}; write one that calls it"
    )


def _fail(what: str, error: BaseException, root: Path, hint: str = "", otherwise: str = "") -> NoReturn:
    """Raise the UserError for an error of the user's code, with its innermost line there, or another place."""
    place = otherwise
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(root) and not frame.filename.startswith((__file__, *INSTALLED)):
            place = f" ({frame.filename}:{frame.lineno}: {frame.line})"
    said = "it ends the program" if isinstance(error, SystemExit) else f"{type(error).__name__}: {reason(error)}"
    raise UserError(f"{what}: {said}{place}{hint}") from error


class NotTrusted(UserError):
    """Code that the user did not name, and that did not run on this machine before."""


def entry_of(path: Path, content: bytes, function: str = "") -> Entry:
    """What is recorded of a file, or of a file whose function is called."""
    return hashlib.sha256(content).hexdigest(), function, str(path)


def check_trusted(entry: Entry, how: str) -> None:
    """Raises NotTrusted, which says how to name a network, for a file that did not run on this machine before."""
    sha256, function, path = entry
    recorded = _recorded()
    if any(each[:2] == (sha256, function) for each in recorded):
        return
    what = "has changed since it" if any(each[2] == path for each in recorded) else "is Python code that never"
    raise NotTrusted(
        f"{path} {what} ran on this machine, and its name comes from a file, not from you: read it, and where you "
        f"trust it, name the network once: {how}"
    )


def record(entries: Iterable[Entry]) -> None:
    """Remember that files ran, because the user named their network."""
    new = sorted(set(entries) - _recorded())
    if not new:
        return
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8") as record:
            record.write("".join(f"{json.dumps(entry)}\n" for entry in new))
    except OSError as error:
        say(f"{file} cannot be written ({reason(error)}): later stages have to be told the network, too")


def _recorded() -> set[Entry]:
    try:
        lines = _file().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {entry for line in lines if (entry := _entry(line)) is not None}


def _entry(line: str) -> Entry | None:
    """The entry of a line; None where it is damaged, as by a full disk."""
    try:
        sha256, function, path = json.loads(line)
    except (ValueError, TypeError):
        return None
    return (sha256, function, path) if all(isinstance(each, str) for each in (sha256, function, path)) else None


def _file() -> Path:
    return Path(global_configure.config_dir) / "networks_that_ran.jsonl"
