import importlib
import sys

import pytest

import medsam_adapt
from medsam_adapt.core.lazy import lazy_module


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
