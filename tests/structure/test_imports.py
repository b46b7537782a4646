"""Imports run one way: there is no circle between files or folders, and none goes against the order of dependence."""

import pytest

from tests.structure.structure import (
    ROOT,
    backward,
    circles,
    defined_names,
    files_of,
    folder_imports,
    folder_of,
    imports,
    lazy_names,
    levels,
)


def test_no_circle_between_files():
    assert circles(imports(ROOT)) == []


def test_no_circle_between_folders():
    assert circles(folder_imports(ROOT)) == []


def test_no_import_against_the_order():
    assert backward(ROOT) == []


def test_every_folder_has_its_place_in_the_order():
    files = files_of(ROOT)
    folders = {folder_of(module, files) for module in files if module} - {"data"}  # which only names what is in it
    assert folders == set(levels())


def test_no_module_is_loose_at_the_top():
    assert {path.name for path in (ROOT / "medsam_adapt").glob("*.py")} == {"__init__.py", "config.py"}


def test_every_lazy_name_is_defined_where_its_package_looks_for_it():
    files = files_of(ROOT)
    missing = [
        f"{package}.{name}"
        for package, names in lazy_names(ROOT).items()
        for name, module in names.items()
        if name not in defined_names(files[f"{package}.{module}".lstrip(".")])
    ]
    assert missing == []


@pytest.fixture
def package(tmp_path):
    """Writes modules of a package of the same name, and returns its root."""

    def write(**modules):
        for name, text in modules.items():
            path = tmp_path / "medsam_adapt" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            (path.parent / "__init__.py").touch()
        return tmp_path

    return write


def test_a_circle_of_lazy_and_type_only_imports_is_found(package):
    root = package(
        core__one="def f():\n    from medsam_adapt.runs.two import g\n",
        runs__two="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..core import one\n",
    )
    assert circles(imports(root)) == [["core.one", "runs.two"]]
    assert circles(folder_imports(root)) == [["core", "runs"]]
    assert backward(root) == [("core.one", "runs.two")]


def test_a_lazy_name_counts_as_an_import_of_the_module_that_defines_it(package):
    root = package(core__one="from medsam_adapt.runs import g\n", runs__two="g = 1\n")
    (root / "medsam_adapt" / "runs" / "__init__.py").write_text('_EXPORTS = {"g": "two"}\n')
    assert imports(root)["core.one"] == {"runs.two"}
