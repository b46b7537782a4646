import importlib

import pytest

import medsam_adapt


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
