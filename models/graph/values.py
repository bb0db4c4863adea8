"""A network as a list of values: the images, constants, and what operators make of earlier values.

A traced graph is such a list, with the names and shapes that tracing found; so is what is cut out of it, and what that
is lowered to. An operator's arguments have the names in torch's schema, whatever function of aten it is.

Networks that are written into the same `Code` share what they have in common, wherever it stands. The method is value
numbering (Cocke and Schwartz, Programming Languages and Their Compilers, 1970).
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

# One name for what torch's schemas call differently from operator to operator.
NAMES = {"shape": "size", "pad": "padding"}
# Pointwise, but some versions of torch do not tag them.
ALSO_POINTWISE = (
    "hardsigmoid hardswish softplus mish relu6 elu selu celu hardtanh leaky_relu silu gelu logsigmoid softshrink "
    "hardshrink rrelu to _to_copy type_as"
)

PLAIN = frozenset({int, float, bool, type(None)})  # what most arguments are
Shape = tuple[int, ...]
Call: TypeAlias = "Value | fx.Node"  # an operator with its arguments; torch's own graphs have nodes


@dataclass(frozen=True)
class Operator:
    """What is known of a function that a graph calls.

    Attributes:
        kind: aten's name without the overload: `conv2d` of aten.conv2d.default and of aten.conv2d.padding; `getitem`
            of a place in a tuple; else the function's name.
        overload: the name with the overload, as torch writes it: 'aten.conv2d.default'.
        is_pointwise: whether every element of the result depends on one element of each operand (after broadcasting).
        defaults: its parameters in order, with the defaults of those that have one. A tensor that comes first, `self`
            or `input` in most schemas, is `source`; see `NAMES` for others.
        by_name: the parameters that are given by name alone.
    """

    kind: str
    overload: str
    is_pointwise: bool
    defaults: Mapping[str, Any]
    by_name: frozenset[str]


@cache
def operator_of(function: Callable[..., Any]) -> Operator:
    """What is known of a function."""
    overload, schema = str(function), getattr(function, "_schema", None)
    if schema is None:
        kind = "getitem" if function is operator.getitem else getattr(function, "__name__", overload)
        return Operator(kind, overload, kind in ALSO_POINTWISE.split(), dict.fromkeys(("source", "index")), frozenset())
    kind = schema.name.removeprefix("aten::").replace("::", ".")
    tagged = torch.Tag.pointwise in getattr(function, "tags", ()) or overload in ("aten.max.other", "aten.min.other")
    names = [NAMES.get(one.name, one.name) for one in schema.arguments]
    if names and isinstance(schema.arguments[0].type, torch.TensorType):
        names[0] = "source"
    named = list(zip(names, schema.arguments, strict=True))
    return Operator(
        kind,
        overload,
        tagged or kind in ALSO_POINTWISE.split(),
        {name: one.default_value for name, one in named},
        frozenset(name for name, one in named if one.kwarg_only),
    )


def arguments(call: Call) -> SimpleNamespace:
    """An operator's arguments by their names, and its defaults for those that were left out."""
    defaults = operator_of(call.target).defaults
    return SimpleNamespace(**{**defaults, **dict(zip(defaults, call.args, strict=False)), **call.kwargs})


def with_arguments(call: Call, **changes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the named arguments of the same call with some of them changed, by their names."""
    known = operator_of(call.target)
    names, args, kwargs = list(known.defaults), list(call.args), dict(call.kwargs)
    for name, value in changes.items():
        if name in kwargs or name in known.by_name:
            kwargs[name] = value
            continue
        place = names.index(name)
        args += [known.defaults[missing] for missing in names[len(args) : place + 1]]
        args[place] = value
    return tuple(args), kwargs


def replaced(arg: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """An argument with something else instead of all of one kind (no numbers); its containers become Python's own."""
    if isinstance(arg, kind):
        return change(arg)
    if isinstance(arg, dict):
        return {name: replaced(part, kind, change) for name, part in arg.items()}
    if not isinstance(arg, list | tuple):
        return arg
    parts = [part if type(part) in PLAIN else replaced(part, kind, change) for part in arg]
    return tuple(parts) if isinstance(arg, tuple) else parts


@dataclass(eq=False, slots=True, repr=False)
class Value:
    """The images, a constant, or what an operator makes of its arguments, which are values and plain things."""

    number: int  # later values have larger ones
    target: Callable[..., Any] | None = None  # the operator; None of the images and of constants
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    operands: tuple["Value", ...] = ()  # the values among the arguments, in order, each once
    shape: Any = None  # a tuple, of two images; a list of them for several tensors; None if it is not known
    name: str = ""  # in a traced graph; of a constant that of what it is made of
    size: int | None = None  # of a number that is a size: it, for two images
    path: str = ""  # the network's module that it is computed in
    _given: SimpleNamespace | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not self.operands:
            found: dict[Value, None] = {}
            replaced((self.args, self.kwargs), Value, lambda operand: found.setdefault(operand))
            self.operands = tuple(found)

    def __repr__(self) -> str:
        return self.name or f"%{self.number}"

    @property
    def given(self) -> SimpleNamespace:
        """The operator's arguments by name, with its defaults."""
        if self._given is None:
            self._given = arguments(self)
        return self._given

    @property
    def function(self) -> Callable[..., Any]:
        """The operator. Raises TypeError for the images and for constants."""
        if self.target is None:
            raise TypeError(f"{self} is no operator")
        return self.target

    @property
    def operator(self) -> Operator:
        """What is known of the operator."""
        return operator_of(self.function)

    def run(self) -> Any:
        """What the operator makes of its arguments, where tensors stand in them instead of values."""
        return self.function(*self.args, **self.kwargs)

    @property
    def kind(self) -> str:
        """The operator's name; '' of the images and of constants."""
        return "" if self.target is None else self.operator.kind

    def changed(self, **changes: Any) -> "Value":
        """The same operator with some arguments changed, by name."""
        return self._calling(*with_arguments(self, **changes))

    def on(self, change: Callable[["Value"], Any]) -> "Value":
        """The same operator with other things instead of its operands."""
        new = {operand: change(operand) for operand in self.operands}
        args, kwargs = replaced((self.args, self.kwargs), Value, new.__getitem__)
        operands = tuple(dict.fromkeys(found for found in new.values() if isinstance(found, Value)))
        return self._calling(args, kwargs, operands)

    def _calling(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], operands: tuple["Value", ...] = ()) -> "Value":
        return Value(self.number, self.target, args, kwargs, operands, self.shape, self.name, self.size, self.path)


def _in_the_graph() -> Tensor:
    raise TypeError("the constants of a traced graph are in the graph")


@dataclass(eq=False, slots=True, repr=False)
class Constant(Value):
    """A tensor that does not depend on the images."""

    shape: Shape = ()
    compute: Callable[[], Tensor] = _in_the_graph  # makes it when it is needed


class Code:
    """Values in the order in which they are made, each once; the first one is the images."""

    def __init__(self) -> None:
        self.images = Value(0)
        self.values: list[Value] = [self.images]
        self._known: dict[Any, Value] = {}
        self._constants: dict[tuple[str, tuple[Any, ...]], Constant] = {}

    def call(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Value:
        """What an operator makes of its arguments."""
        operands: dict[Value, None] = {}
        key = (target, _key(args, operands), _key(tuple(kwargs.items()), operands) if kwargs else ())
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Value(len(self.values), target, args, kwargs or {}, tuple(operands))
            self.values.append(found)
        return found

    def constant(self, name: str, key: tuple[Any, ...], shape: Shape, compute: Callable[[], Tensor]) -> Constant:
        """A constant; `name` and `key` say together how it is made."""
        found = self._constants.get((name, key))
        if found is None:
            found = self._constants[name, key] = Constant(len(self.values), shape=shape, name=name, compute=compute)
            self.values.append(found)
        return found


def needed(values: Iterable[Value]) -> list[Value]:
    """These values and all that they are made of, in the order in which they are made."""
    found: dict[int, Value] = {}
    missing = list(values)
    while missing:
        value = missing.pop()
        if value.number not in found:
            found[value.number] = value
            missing.extend(value.operands)
    return [found[number] for number in sorted(found)]


def images_of(values: Iterable[Value]) -> Value:
    """The images among the values of a graph."""
    return next(value for value in values if value.target is None and not isinstance(value, Constant))


def users_of(values: Iterable[Value]) -> dict[Value, list[Value]]:
    """The values whose operators read each value, in order."""
    users: dict[Value, list[Value]] = {value: [] for value in values}
    for value in users:
        for operand in value.operands:
            users[operand].append(value)
    return users


def _key(arg: Any, operands: dict[Value, None]) -> Any:
    """What tells arguments apart; adds the values in them to `operands`.

    1, 1.0 and True are different, and so are 0.0 and -0.0.
    """
    if isinstance(arg, Value):
        operands[arg] = None
        return arg
    if isinstance(arg, list | tuple):
        return tuple([_key(part, operands) for part in arg])
    return type(arg), repr(arg) if isinstance(arg, float) else arg
