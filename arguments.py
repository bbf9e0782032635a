"""Checks of the arguments of public functions against their annotations and array shapes."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from .errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A public function whose arguments are compared with their annotations before it begins.

    UsageError for one of another type. Lists, tuples and tensors become the arrays they stand for
    where the annotation is an array.
    """
    return checked_arrays()(function)


def checked_fields(kind: type[R]) -> type[R]:
    """A dataclass whose fields are compared with their annotations before one is made.

    UsageError for one of another type; a list becomes the tuple that it stands for.
    """
    kind.__init__ = checked(kind.__init__)  # type: ignore[method-assign]
    return kind


def checked_arrays(
    vectors: Sequence[str] = (), numbers: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates like `checked`, and also compares arrays.

    Those named in `vectors` hold numbers, [rows, d], with the same d in all and in moments; those
    in `numbers` hold whole numbers, [rows].
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]
        hints: dict[str, Any] = {}

        def refuse(argument: str, given: str, needed: str) -> NoReturn:
            remedy = f"Correct the argument `{argument}`; help({name}) explains it"
            raise UsageError(f"{name} was called with {argument}={given}", needed, remedy)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not hints:
                hints.update(dict.fromkeys(signature.parameters, Any))
                hints.update(typing.get_type_hints(function))
            bound = signature.bind(*args, **kwargs)
            values = bound.arguments
            for argument, value in values.items():
                values[argument] = _fitting(value, hints[argument])
                if values[argument] is _UNFIT:
                    refuse(argument, _shown(value), _described(hints[argument]))
            fitted = [getattr(value, "moments", value) for value in values.values()]
            lengths = [n for each in fitted if (n := getattr(each, "dimension", None))]
            array: Any
            for argument in vectors:
                array = values.get(argument)
                if hasattr(array, "dtype"):
                    if array.ndim != 2 or array.dtype.kind not in "fiu":
                        refuse(argument, _shown(array), "an array [rows, dimensions] of numbers")
                    lengths.append(array.shape[1])
                    if lengths[-1] != lengths[0]:
                        needed = f"vectors of {lengths[0]} dimensions, as those beside them have"
                        refuse(argument, f"vectors of {lengths[-1]} dimensions", needed)
            for argument in numbers:
                array = values.get(argument)
                if array is not None and array.size == 0 and array.ndim == 1:
                    array = values[argument] = array.astype("int64")
                if array is not None and (array.ndim != 1 or array.dtype.kind not in "iu"):
                    refuse(argument, _shown(array), "an array [rows] of whole numbers")
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


_UNFIT: Any = object()


def _fitting(value: Any, hint: Any) -> Any:
    """`value`, or the array it stands for, where it is what `hint` says; else _UNFIT."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = (_fitting(value, each) for each in inner)
        return next((each for each in found if each is not _UNFIT), _UNFIT)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    kind = origin or hint
    if kind in (int, float) and getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):
        value = value.item()  # a number of NumPy: FAISS takes no such k
    if kind is float:
        kind = numbers.Real
    elif kind is int:
        kind = type(None) if isinstance(value, bool) else numbers.Integral
    elif kind is tuple and isinstance(value, list | tuple):
        each = (*inner[:1],) * len(value) if inner[-1:] == (...,) else inner or (Any,) * len(value)
        lost = (_fitting(*pair) is _UNFIT for pair in zip(value, each, strict=False))
        return _UNFIT if len(each) != len(value) or any(lost) else tuple(value)
    elif kind is Path and isinstance(value, str):
        return Path(value)
    if getattr(kind, "__module__", "") == "numpy":
        return value if isinstance(value, kind) else _as_array(value)
    if getattr(kind, "_is_protocol", False) and not kind.__module__.startswith("collections"):
        if "__call__" in vars(kind):
            return value if callable(value) else _UNFIT
        members = {*vars(kind), *vars(kind).get("__annotations__", {})}
        needed = [name for name in members if not name.startswith("_")]
        if not needed and (isinstance(value, list | tuple) or hasattr(value, "__array__")):
            return value if hasattr(value, "flags") else _as_array(value)
        if not needed and isinstance(value, str | bytes | Mapping):
            return _UNFIT
        fits = all(hasattr(value, name) for name in needed or ("__len__", "__getitem__"))
        return value if fits and not isinstance(value, type) else _UNFIT
    if kind is typing.Literal:
        return value if value in inner else _UNFIT
    if kind in (Sequence, Iterable, Collection):
        single = isinstance(value, bytes | os.PathLike | Mapping)
        single |= isinstance(value, str) and (kind is not Iterable or inner != (str,))
        method = {Iterable: "__iter__", Collection: "__len__", Sequence: "__getitem__"}[kind]
        single |= not (hasattr(value, "__iter__") and hasattr(value, method))
        if single or getattr(value, "ndim", 1) != 1:
            return _UNFIT
        first = inner[0] if inner and hasattr(value, "__len__") else Any
        fits = first is Any or all(_fitting(one, first) is not _UNFIT for one in value)
        return value if fits else _UNFIT
    return value if not isinstance(kind, type) or isinstance(value, kind) else _UNFIT


def _as_array(value: Any) -> Any:
    import numpy as np

    if not isinstance(value, list | tuple) and not hasattr(value, "__array__"):
        return _UNFIT
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):  # ragged, or of a type NumPy lacks
        return _UNFIT
    return _UNFIT if array.dtype == object else array


def _shown(value: object) -> str:
    """A value in few words: its type, and the value itself where it is short."""
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return repr(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape} and type {value.dtype}"
    short = isinstance(value, str | int | float) and len(repr(value)) <= 40
    return f"{value!r} ({kind})" if short else f"a {kind}"


def _described(hint: Any) -> str:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(each) for each in inner))
    if hint is type(None):
        return "None"
    named = getattr(hint, "__name__", None) or str(hint)
    if inner and named in ("Sequence", "Iterable", "Collection"):
        return "a list" if inner[0] is Any else f"a list of {_described(inner[0])}"
    return _DESCRIPTIONS.get(named, named)


_DESCRIPTIONS = {
    "ndarray": "an array",
    "Rows": "an array",
    "str": "text",
    "PathLike": "a path",
    "Path": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "tuple": "a list",
    "Mapping": "a dict",
    "Callable": "a function",
    "ImageSource": "a collection that open_images opened",
    "TextSource": "a corpus that open_corpus opened",
    "EmbeddedImages": "images of embed_images or read_image_embeddings",
    "CaptionIndex": "an index of open_index, build_index or index_embeddings",
    "Encoder": "a model that load_encoder loaded",
    "Reference": "a reference of fit_reference or load_reference",
}
"""Types in the words of the documentation."""
