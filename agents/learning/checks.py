"""Validation of configuration blocks: types, finite numbers and ranges."""

from __future__ import annotations

import math
import types
from dataclasses import fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_types(block: Any, *, but: str | None = None) -> None:
    """Check that every field of a dataclass instance, `but` one, has its annotated type, and that floats are finite.

    Raises:
        ValueError: names the field, its value and the allowed values.
    """
    kind: Any = type(block)
    for field in fields(block):
        value, hint = getattr(block, field.name), _hints(kind)[field.name]
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} must be a finite number, got {value}")
        if field.name != but and not _fits(value, hint):
            raise ValueError(f"{field.name} must be {_describe(hint)}, got {value!r}")


def check_range(
    block: Any, *names: str, minimum: float, maximum: float = math.inf, above: bool = False, below: bool = False
) -> None:
    """Check that fields of a dataclass instance lie in [minimum, maximum]; None is allowed.

    Args:
        block: the instance.
        names: of its fields.
        minimum: smallest allowed value.
        maximum: largest allowed value.
        above: exclude the minimum itself.
        below: exclude the maximum itself.

    Raises:
        ValueError: names the field, its value and the range.
    """
    for name in names:
        value = getattr(block, name)
        if value is None:
            continue
        low = value > minimum if above else value >= minimum
        high = value < maximum if below else value <= maximum
        if not (low and high):
            raise ValueError(f"{name} must {_describe_range(minimum, maximum, above, below)}, got {value}")


def _describe_range(minimum: float, maximum: float, above: bool, below: bool) -> str:
    if maximum == math.inf:
        return f"be {'above' if above else 'at least'} {minimum:g}"
    return f"lie in {'(' if above else '['}{minimum:g}, {maximum:g}{')' if below else ']'}"


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, options))
    if options:
        return " or ".join(_describe(option) for option in options)
    words = {int: "an integer", float: "a number", bool: "True or False", str: "a string", type(None): "None"}
    return words.get(hint, str(hint))
