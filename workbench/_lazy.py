"""Lazy re-exports (PEP 562): a package's `__init__` offers names of its modules without importing them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for `package`. home: name -> the module below `package` that defines it.

    The module is imported each time one of its names is asked for, and the package stores nothing: if a test replaces
    the name in the module, the package gives the replacement.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *home})

    return __getattr__, __dir__, sorted(home)
