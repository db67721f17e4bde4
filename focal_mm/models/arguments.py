"""Types of a function's arguments, as its annotations say them."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
# bool is an int to Python, and a string a sequence: neither is meant by them here.
_SCALARS = {
    int: int,
    float: int | float,
    str: str,
    bool: bool,
    NoneType: NoneType,
}


def check_types(function: _Function) -> _Function:
    """Make a function refuse arguments that are not of their annotated types.

    Annotations are made of int, float, str, bool, dict, None, ``Sequence``, ``list``,
    ``Mapping`` and unions; whole numbers are floats too.

    Raises:
        TypeError: When it is called; the line has the argument's name, its annotation
            and its value.
    """
    signature = inspect.signature(function)
    hints = functools.cache(lambda: typing.get_type_hints(function))

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            hint = hints().get(name)
            if hint is not None and not fits(value, hint):
                wanted = signature.parameters[name].annotation
                raise TypeError(f"{name} must be {wanted}, got {value!r}")
        return function(*args, **kwargs)

    return checked


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an annotation means."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(fits(value, option) for option in inner)
    if hint in _SCALARS:
        is_bool = isinstance(value, bool)
        return isinstance(value, _SCALARS[hint]) and is_bool == (hint is bool)
    if not isinstance(value, origin or hint) or isinstance(value, str):
        return False
    if issubclass(origin or hint, Mapping) and inner:
        return all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if issubclass(origin or hint, Sequence) and inner:
        return all(fits(item, inner[0]) for item in value)
    return True
