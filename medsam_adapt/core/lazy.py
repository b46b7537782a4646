"""Packages and modules that are imported on first use, so that listings and ``--help`` load no torch and no SciPy."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
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


def defer_package(name: str) -> None:
    """Have submodules of a package imported without what its ``__init__`` imports, until one of its names is used.

    ``segment_anything`` imports torchvision for its predictor, which takes longer than torch; its modules do not need
    it. Whoever then asks the package for a name gets what an ordinary import gives. Nothing is done for a package that
    is imported already or is not installed.

    Args:
        name: of a package at the top.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader, module, lock = spec.loader, importlib.util.module_from_spec(spec), threading.RLock()
    begun = False

    def __getattr__(attribute: str) -> Any:
        nonlocal begun
        with lock:  # a name that is asked for while the package is imported, by itself, is not there yet
            if not begun:
                begun = True
                loader.exec_module(module)
        if attribute not in vars(module):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        return vars(module)[attribute]

    vars(module)["__getattr__"] = __getattr__
    sys.modules[name] = module
