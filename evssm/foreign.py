"""Networks of one's own, named on the command line as `package.module:callable`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import Parameter, isclass, signature
from pathlib import Path
from typing import Any


def own_network(name: str) -> Callable[..., Any]:
    """The image-to-image network that `package.module:callable` names, found from the current folder or installed.

    The callable is a network, a function of an image `b c h w`, or a class or function without required arguments
    that makes one. Raises `ValueError`, in one line, where there is no such module or callable or where calling it
    fails.
    """
    from torch import nn

    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module_name)
    except Exception as error:  # whatever the user's own module does on import
        raise ValueError(f"cannot import {module_name} for {name}: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            there = ", ".join(sorted(key for key in vars(found) if not key.startswith("_"))[:8]) or "nothing"
            raise ValueError(f"{module_name} has no {attribute}; it has {there}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}; name a network, or what makes one")
    if isinstance(found, nn.Module) or (not isclass(found) and _required(found)):
        return found
    try:
        made = found()
    except Exception as error:  # whatever the user's own factory does
        raise ValueError(f"{name}() fails: {type(error).__name__}: {error}") from error
    if not callable(made):
        raise ValueError(f"{name}() returns a {type(made).__name__}, where a network was asked for")
    return made


def _required(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that have to be given."""
    plain = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    given = signature(function).parameters.values()
    return [p.name for p in given if p.kind in plain and p.default is Parameter.empty]


@contextmanager
def told_in_a_line(name: str, *, own: bool) -> Iterator[None]:
    """Says of a network of the user's own that it failed, and how, whatever it raised."""
    try:
        yield
    except Exception as error:
        if not own or isinstance(error, (ValueError, LookupError, OSError)):
            raise
        raise ValueError(f"{name} fails on an image of this size: {type(error).__name__}: {error}") from error
