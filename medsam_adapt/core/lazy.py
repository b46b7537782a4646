"""Packages and modules that are imported on first use, so that listings and ``--help`` load no torch and no SciPy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any


def lazy_exports(package: str, exports: dict[str, str], modules: Iterable[str] = ()) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` for ``package``, whose ``dir()`` then lists what there is to import.

    Args:
        package: the package's ``__name__``.
        exports: public name -> the submodule (relative to the package) that defines it.
        modules: submodules that are public themselves.
    """

    def __getattr__(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{exports[name]}"), name)

    def __dir__() -> list[str]:
        own = (name for name in namespace if name.startswith("__"))
        return sorted({*exports, *modules, *own})

    namespace = vars(sys.modules[package])
    namespace["__dir__"] = __dir__
    return __getattr__


def lazy_module(name: str) -> ModuleType:
    """A module that is imported when one of its attributes is first used.

    Unlike :class:`importlib.util.LazyLoader`, which two threads may confuse in Python 3.10 and 3.11, it takes the lock
    of an ordinary import. Type checkers do not see through it: give them an ordinary import.

    Args:
        name: full name of the module, a submodule included.
    """
    return _LazyModule(name)


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)
        return value
