"""What quick commands import: a name that is missing here makes every call slower, so add one on purpose only."""

import subprocess
import sys
from fnmatch import fnmatch

import pytest

from medsam_adapt.cli.lazy_group import SUMMARIES, load_command

TYPER = {"annotated_doc", "attr", "click", "colorama", "pygments", "rich", "shellingham"}
TYPER |= {"typer", "typing_extensions"}
PYDANTIC = {"annotated_types", "pydantic", "pydantic_core", "typing_inspection"}
TORCH = {"PIL", "cuda", "cython_runtime", "functorch", "jinja2", "markupsafe", "mpmath", "networkx", "numpy"}
TORCH |= {"packaging", "sympy", "torch", "torchgen", "tqdm", "triton", "yaml"}
START = {"", "cli", "cli.lazy_group", "cli.main", "core", "core.errors", "core.lazy", "core.monai_door"}
PRINTED = {"cli.console", "cli.options", "core.*"}
HELP = TYPER | PYDANTIC | {"markdown_it", "mdurl", "numpy"}
METHODS = ["adaptformer", "blosam", "infosam", "lora", "samcobot", "samparser", "series_adapter"]
BUNDLES = {"bundle", "bundle.*", "bundles", "cli.bundles", "config"}

PROBE = """
import contextlib, io, sys
sys.path = [place for place in sys.path if place]
before = set(sys.modules)
from medsam_adapt.cli.main import main
for line in " ".join(sys.argv[1:]).split(","):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(line.split())
deferred = "segment_anything" in sys.modules and "sam_model_registry" not in vars(sys.modules["segment_anything"])
print(*(set(sys.modules) - before - ({"segment_anything"} if deferred else set())))
"""


def imported(*arguments):
    """Top names of third-party modules, and this package's modules, that a command imports, or several after commas."""
    command = [sys.executable, "-c", PROBE, *arguments]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    top = {name.partition(".")[0] for name in names}
    third = {name for name in top if not name.startswith("_")} - set(sys.stdlib_module_names) - {"medsam_adapt"}
    ours = {name.removeprefix("medsam_adapt").lstrip(".") for name in names if name.split(".")[0] == "medsam_adapt"}
    return third, ours


@pytest.mark.parametrize(
    ("arguments", "third_party", "own"),
    [
        (["--help"], TYPER, START),
        (["bundles", "list"], TYPER | PYDANTIC, START | PRINTED | BUNDLES),
        (["info", "--json"], TYPER | PYDANTIC | TORCH, START | PRINTED | {"cli.info"}),
    ],
    ids=["help", "bundles list", "info"],
)
def test_a_quick_command_imports_nothing_else(arguments, third_party, own):
    third, ours = imported(*arguments)
    assert third <= third_party
    assert {name for name in ours if not any(fnmatch(name, allowed) for allowed in own)} == set()
    assert f"cli.{arguments[0]}" in ours or arguments == ["--help"]


def test_the_help_of_no_command_imports_a_library_for_images_or_networks():
    third, ours = imported(", ".join(f"{name} --help" for name in SUMMARIES))
    assert third <= HELP
    assert {f"cli.{name}" for name in SUMMARIES} <= ours


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_listed_exists(name):
    command = load_command(name)
    assert command.name == name
    assert command.help


def test_a_run_is_loaded_and_used_without_the_libraries_that_train_it():
    """Each process of a job array loads them anew, and MONAI and torchvision take longer to import than torch."""
    methods = ", ".join(f"medsam_adapt.methods.{name}" for name in METHODS)
    probe = f"import sys, medsam_adapt.inference.predictor, medsam_adapt.prediction.case_runner, {methods}\n"
    code = probe + "print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in found
    assert not {"monai", "ignite", "matplotlib", "torchvision"} & {*found}
