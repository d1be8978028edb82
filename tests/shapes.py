"""How annotations are checked while tests run: `float` takes an int, as type checkers read it (PEP 484)."""

import dataclasses
import functools
import inspect
import sys
from types import CellType, CodeType, FunctionType
from typing import Any, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype
from typing_extensions import Unpack

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_every_check = jaxtyping.jaxtyped


def check(fn: Any) -> Any:
    """What beartype makes of a function or a class."""
    hints = fn.__annotations__ if isinstance(fn, FunctionType) else {}
    if sys.version_info >= (3, 11) or not any(get_origin(hint) is Unpack for hint in hints.values()):
        return _beartype(fn)
    # Before Python 3.11 the options of `**options: Unpack[...]` claim to be a TypeVar, which beartype believes.
    hollow = _copy(fn, fn.__closure__)
    hollow.__annotations__ = {name: hint for name, hint in hints.items() if get_origin(hint) is not Unpack}
    checked = _beartype(hollow)
    checked.__annotations__ = hints
    return checked


def jaxtyped(fn: Any = None, *, typechecker: Any = None) -> Any:
    """Checks the same as `jaxtyping.jaxtyped`, in a fraction of its time.

    That binds the arguments of every call, checks them twice, and compiles two functions for each one that it checks.
    Here beartype checks arguments and result once; a function without a shape in its signature has no shapes to keep
    apart from those of its caller.
    """
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(jaxtyped(fn.__func__, typechecker=typechecker))
    if isinstance(fn, property):
        return property(*(part and jaxtyped(part, typechecker=typechecker) for part in (fn.fget, fn.fset, fn.fdel)))
    if isinstance(fn, type) and dataclasses.is_dataclass(fn) and isinstance(vars(fn).get("__init__"), FunctionType):
        if not hasattr(fn.__init__, "__wrapped__"):
            fn.__init__ = jaxtyped(fn.__init__, typechecker=typechecker)
        return fn
    # Generators, and annotations that only jaxtyping can read: strings, and sizes that name an argument.
    hints = fn.__annotations__.values() if isinstance(fn, FunctionType) else ()
    if typechecker is None or not hints or inspect.isgeneratorfunction(fn) or any(map(_is_for_jaxtyping, hints)):
        return fn if isinstance(fn, FunctionType) and not hints else _every_check(fn, typechecker=typechecker)
    checked = _of_same_code(fn, typechecker) if "<locals>" in fn.__qualname__ else typechecker(fn)
    if not any(map(_has_shape, hints)):
        return checked

    @functools.wraps(fn)
    def with_shapes(*args: Any, **kwargs: Any) -> Any:
        with _every_check("context"):
            return checked(*args, **kwargs)

    return with_shapes


#: Of functions that are made again at every call of another one: what beartype made of the first.
_checks: dict[CodeType, tuple[dict[str, Any], FunctionType]] = {}


def _of_same_code(fn: FunctionType, typechecker: Any) -> Any:
    """What beartype makes of a function, which is the same for all functions of one piece of code."""
    if fn.__code__ not in _checks:
        hollow = _copy(fn, tuple(CellType() for _ in fn.__closure__ or ()))  # so that nothing is kept alive here
        _checks[fn.__code__] = (fn.__annotations__, typechecker(hollow))
    hints, first = _checks[fn.__code__]
    if hints != fn.__annotations__ or "__beartype_func" not in (first.__kwdefaults__ or ()):
        return typechecker(fn)
    checked = functools.wraps(fn)(_copy(first, first.__closure__))
    checked.__kwdefaults__ = {**first.__kwdefaults__, "__beartype_func": fn}
    return checked


def _copy(fn: FunctionType, closure: tuple[CellType, ...] | None) -> FunctionType:
    copy = FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, closure)
    copy.__dict__.update(fn.__dict__)
    copy.__module__, copy.__qualname__, copy.__doc__ = fn.__module__, fn.__qualname__, fn.__doc__
    copy.__annotations__, copy.__kwdefaults__ = fn.__annotations__, fn.__kwdefaults__
    return copy


def _is_for_jaxtyping(hint: Any) -> bool:
    return isinstance(hint, str) or "{" in getattr(hint, "dim_str", "") or any(map(_is_for_jaxtyping, _parts(hint)))


def _has_shape(hint: Any) -> bool:
    return hasattr(hint, "dim_str") or any(map(_has_shape, _parts(hint)))


def _parts(hint: Any) -> tuple[Any, ...]:
    # Those of Literal are values, and those of Callable[[...], ...] a list.
    parts = get_args(hint)
    return (
        ()
        if any(isinstance(part, (str, int, bytes)) for part in parts)
        else tuple(one for part in parts for one in (part if isinstance(part, list) else (part,)))
    )
