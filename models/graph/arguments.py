"""What operators are given: their arguments by name, and with others instead of the nodes, values or places in them."""

from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

import torch

# One name for what torch's schemas call differently from operator to operator.
NAMES = {"shape": "size", "pad": "padding"}


class Call(Protocol):
    """An operator with its arguments: a node of a graph, or a value of straight-line code."""

    @property
    def target(self) -> Any: ...
    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def kwargs(self) -> Mapping[str, Any]: ...


@cache
def _parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any], frozenset[str]]:
    """The names of a function's parameters in order, their defaults, and those that are given by name alone."""
    schema = getattr(function, "_schema", None)
    if schema is None:
        return ("source", "index"), {}, frozenset()  # of `operator.getitem`
    names = [NAMES.get(one.name, one.name) for one in schema.arguments]
    if names and isinstance(schema.arguments[0].type, torch.TensorType):
        names[0] = "source"
    named = list(zip(names, schema.arguments, strict=True))
    defaults = {name: one.default_value for name, one in named}
    return tuple(defaults), defaults, frozenset(name for name, one in named if one.kwarg_only)


def arguments(call: Call) -> SimpleNamespace:
    """An operator's arguments by the names in torch's schema, and its defaults for those that were left out.

    A tensor that comes first, `self` or `input` in most schemas, is `source`; see `NAMES` for others.
    """
    names, defaults, _ = _parameters(call.target)
    return SimpleNamespace(**{**defaults, **dict(zip(names, call.args, strict=False)), **call.kwargs})


def with_arguments(call: Call, **changes: Any) -> tuple[tuple, dict[str, Any]]:
    """The positional and the named arguments of the same call with some of them changed, by their names."""
    names, defaults, by_name = _parameters(call.target)
    args, kwargs = list(call.args), dict(call.kwargs)
    for name, value in changes.items():
        if name in kwargs or name in by_name:
            kwargs[name] = value
            continue
        place = names.index(name)
        args += [defaults[missing] for missing in names[len(args) : place + 1]]
        args[place] = value
    return tuple(args), kwargs


def replaced(arg: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """An argument with something else instead of everything of one kind; its containers become Python's own."""
    if isinstance(arg, kind):
        return change(arg)
    if isinstance(arg, list):
        return [replaced(part, kind, change) for part in arg]
    if isinstance(arg, tuple):
        return tuple([replaced(part, kind, change) for part in arg])
    if isinstance(arg, dict):
        return {name: replaced(part, kind, change) for name, part in arg.items()}
    return arg
