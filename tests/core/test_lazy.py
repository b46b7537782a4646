import importlib
import sys

import pytest

import medsam_adapt
from medsam_adapt.core.lazy import defer_package, lazy_module


def public(package):
    return [name for name in dir(package) if not name.startswith("_")]


def test_the_package_lists_what_it_offers():
    assert {"load_run", "load_weights", "data", "networks", "scoring"} <= set(public(medsam_adapt))
    assert "__version__" in dir(medsam_adapt)
    assert "lazy_exports" not in dir(medsam_adapt)


@pytest.mark.parametrize("name", ["", ".data", ".methods", ".networks", ".weights", ".inference"])
def test_every_listed_name_can_be_imported(name):
    package = importlib.import_module(f"medsam_adapt{name}")
    assert public(package)
    assert all(hasattr(package, each) for each in public(package))


def test_a_lazy_module_is_imported_when_it_is_used(monkeypatch):
    monkeypatch.delitem(sys.modules, "xml.sax.saxutils", raising=False)
    module = lazy_module("xml.sax.saxutils")
    assert "xml.sax.saxutils" not in sys.modules
    assert module.escape("<") == "&lt;"
    assert "xml.sax.saxutils" in sys.modules
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def test_a_deferred_package_is_imported_when_one_of_its_names_is_used(tmp_path, monkeypatch):
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from .inner import VALUE\nNAME = VALUE + 1\nTIMES = globals().get('TIMES', 0) + 1\n"
    )
    (package / "inner.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    defer_package("slow_package")
    try:
        from slow_package.inner import VALUE

        module = sys.modules["slow_package"]
        assert VALUE == 1
        assert "NAME" not in vars(module)
        with pytest.raises(ImportError):
            from slow_package import nothing  # noqa: F401
        from slow_package import NAME, TIMES

        defer_package("slow_package")
        assert (NAME, TIMES) == (2, 1)
        assert sys.modules["slow_package"] is module
        defer_package("no_such_package")
        assert "no_such_package" not in sys.modules
    finally:
        for name in ("slow_package", "slow_package.inner"):
            sys.modules.pop(name, None)
