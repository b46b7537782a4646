import os
import subprocess
import sys
from pathlib import Path

import pytest

from medsam_adapt.cli.main import main

ROOT = Path(__file__).parents[1]
if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="pyproject.toml is read with Python 3.11's tomllib")

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def python(code, folder):
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_the_packages_listed_are_those_on_disk():
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "medsam_adapt").rglob("__init__.py")
    } | {f"medsam_adapt.{name}" for name in ("cli", "bundles")}
    assert set(SETTINGS["packages"]) == on_disk


@pytest.mark.parametrize(("package", "folder"), [("medsam_adapt", "medsam_adapt"), ("medsam_adapt.bundles", "bundles")])
def test_every_data_file_is_packaged(package, folder):
    patterns = SETTINGS["package-data"][package]
    packaged = {path for pattern in patterns for path in (ROOT / folder).glob(pattern)}
    ignored = {".py", ".pyc"}
    files = {path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix not in ignored}
    assert files <= packaged


def test_no_helper_package_is_installed_at_the_top(tmp_path):
    found = python(_PLACES, tmp_path)  # rt-utils installs a package `tests`
    assert found.returncode == 0, found.stderr
    places = [Path(line) for line in found.stdout.splitlines()]
    assert not [place for place in places if ROOT in place.parents]


_PLACES = """
import importlib
for name in ("cli", "bundles", "tests"):
    try:
        print(importlib.import_module(name).__file__)
    except ModuleNotFoundError:
        pass
import medsam_adapt.cli.main, medsam_adapt.bundles
"""


def test_listings_and_help_load_no_torch(tmp_path):
    steps = [
        "import medsam_adapt",
        "import medsam_adapt.cli.main",
        "from medsam_adapt.cli.main import app; app(['--help'], standalone_mode=False)",
        "app(['train', '--help'], standalone_mode=False)",
        "app(['bundles', 'list'], standalone_mode=False)",
    ]
    check = "import sys; print('loaded', [name for name in ('torch', 'monai') if name in sys.modules])"
    finished = python("\n".join(line for step in steps for line in (step, check)), tmp_path)
    assert finished.returncode == 0, finished.stderr
    loaded = [line for line in finished.stdout.splitlines() if line.startswith("loaded")]
    assert dict(zip(steps, loaded, strict=True)) == dict.fromkeys(steps, "loaded []")


@pytest.mark.parametrize(
    ("given", "turns"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing", "turns", "a policy"],
)
def test_threads_wait_asleep_unless_the_user_says_how(given, turns, monkeypatch):
    """Set by a command before PyTorch, whose threads they are, is loaded."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert os.environ.get("GOMP_SPINCOUNT") == turns


def test_bundles_hold_no_python():
    assert [path.name for path in (ROOT / "bundles").rglob("*.py")] == ["__init__.py"]
