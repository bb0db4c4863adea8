"""What a setting is: its kind of value, the stages that its value is part of, its default and its sentence."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

LARGEST = 2**31 - 1  # of any whole number; what is larger could not be run anyway
SCALARS = (int, float, bool, str)


class SettingError(ValueError):
    """A setting that does not exist or cannot have that value; the message names what can be."""


class StageName(str):
    """What a setting's value can be part of. Called, it declares such a setting: a dataclass field."""

    def __call__(self, default: Any, sentence: str, also: tuple["StageName", ...] = ()) -> Any:
        return dataclasses.field(default=default, metadata={"sentence": sentence, "part_of": (self, *also)})


def check_value(name: str, value: Any, annotation: Any) -> None:
    """Raises SettingError for a value that is not of the annotation's type, or does not fit."""
    kind, fits, expected = parts_of(annotation)
    if not is_of_kind(value, kind):
        described = kind.__name__ if kind in SCALARS else str(kind)
        raise wrong_value(name, f"{described}, whole numbers up to {LARGEST}", value)
    if not fits(value):
        raise wrong_value(name, expected, value)


def read_value(name: str, text: str, annotation: Any) -> Any:
    """The value that a command line's text stands for. Raises SettingError for a text that stands for none."""
    kind, *_ = parts_of(annotation)
    try:
        return parse_value(text, kind)
    except ValueError:
        pairs = "tuple" in str(typing.get_args(kind))
        several = "pairs like 2:0.95,4:0.9" if pairs else "comma-separated values"
        raise wrong_value(name, kind.__name__ if kind in SCALARS else several, text) from None


def wrong_value(name: str, expected: str, given: Any) -> SettingError:
    """The error that names the setting."""
    return SettingError(f"setting {name}: expected {expected}, given {given!r}")


def parts_of(annotation: Any) -> tuple[Any, Callable[[Any], bool], str]:
    """The type in a setting's annotation, which of its values fit, and the same in words.

    `Annotated[type, fits, words]` says all three, `Literal["a", "b"]` is one of these words; any other type fits whole.
    """
    if typing.get_origin(annotation) is Annotated:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        *first, last = choices = typing.get_args(annotation)
        return str, choices.__contains__, f"{', '.join(first)} or {last}"
    return annotation, lambda value: True, "any value"


def is_of_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of the type `kind`: a scalar, `tuple[kind, ...]` or a tuple of so many kinds."""
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST
    if kind is float:
        return isinstance(value, float) or is_of_kind(value, int)
    if kind in (bool, str):
        return isinstance(value, kind)
    kinds = typing.get_args(kind)
    if not isinstance(value, tuple):
        return False
    if kinds[-1] is Ellipsis:
        return all(is_of_kind(element, kinds[0]) for element in value)
    return len(value) == len(kinds) and all(map(is_of_kind, value, kinds))


def parse_value(text: str, kind: Any) -> Any:
    """`text` as a value of the type `kind`: a scalar, `a,b,c`, or `a:b,c:d`. Raises ValueError for others."""
    if kind is bool:
        choices = {"true": True, "false": False, "1": True, "0": False}
        if text.lower() not in choices:
            raise ValueError(text)
        return choices[text.lower()]
    if kind in SCALARS:
        return kind(text)
    kinds = typing.get_args(kind)
    if kinds[-1] is Ellipsis:
        return tuple(parse_value(part, kinds[0]) for part in text.split(",") if part)
    return tuple(parse_value(part, kind) for part, kind in zip(text.split(":"), kinds, strict=True))
