"""README and docs are correct: commands that parse, settings that exist, code that runs, links that lead.

The tutorial that begins with a folder of scans is walked here; ``pytest -m docs -n 0`` walks every page.
"""

import ast
import importlib
import json
import re
import shlex

import pytest

from medsam_adapt.bundle.catalogue import DEFAULT_BUNDLE, parse_sets, resolve_knobs

from .conftest import ship_nano
from .doc_blocks import REPOSITORY, SHELL, blocks, pages, parse
from .doc_walk import TYPED, walk
from .small_networks import register_nano

PAGES = [pytest.param(page, id=page.relative_to(REPOSITORY).as_posix()) for page in pages()]
_NOT_SHIPPED = ("from_run", "repeat", "from_runs", "trust_bundle")  # settings come from a run or a folder
every_page = pytest.mark.parametrize("page", PAGES)


@every_page
def test_every_command_names_options_and_settings_that_there_are(page):
    for block in blocks(page):
        for words in block.commands if block.language in SHELL else ():
            if words[0] == "medsam-adapt":
                check_settings(parse(words))


def test_commands_in_the_tables_of_the_readme_can_be_typed():
    rows = [row for row in (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    commands = [command for row in rows for command in re.findall(r"`(medsam-adapt [^`]+)`", row)]
    assert len(commands) >= 9
    for command in commands:
        check_settings(parse(shlex.split(command)))


def check_settings(given):
    """Refuse settings that the bundles do not have."""
    if given["name"] not in ("train", "compare") or any(given.get(key) for key in _NOT_SHIPPED):
        return
    names = (given.get("bundles") or given.get("bundle") or DEFAULT_BUNDLE).split(",")
    sets = parse_sets(given["sets"] or [])
    options = {key: given.get(key) for key in ("backbone", "checkpoint", "image_size", "epochs", "prompt", "seed")}
    for name in names:
        resolve_knobs(name, given["recipe"], options, {key: sets[key] for key in sets if "." not in key})


@every_page
def test_code_compiles_and_imports_what_there_is(page):
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        if block.language != "python" or "normtuning" in block.text or "NormTuning" in block.text:
            continue  # the example of add_a_method.md has a separate test
        for node in ast.walk(ast.parse(block.text, block.where)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), block.where
            elif isinstance(node, ast.Import):
                assert all(importlib.import_module(name.name) for name in node.names), block.where


@every_page
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


@every_page
def test_what_is_not_run_says_why_and_the_rest_can_be_run(page):
    for block in blocks(page):
        if block.not_run is None and block.language in SHELL:
            assert {words[0] for words in block.commands} <= TYPED, f"{block.where}: state why it is not run"


def test_extras_that_are_told_exist():
    tomllib = pytest.importorskip("tomllib", reason="pyproject.toml is read with Python 3.11's tomllib")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in pages():
        for named in re.findall(r"(?:medsam-adapt|\.)\[([a-z,]+)\]", page.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= set(extras), page


def test_the_tutorial_from_a_folder_of_scans_can_be_followed(tmp_path, tmp_path_factory, monkeypatch):
    register_nano(monkeypatch)  # the page is tested here; the network that ships has separate tests
    ship_nano(tmp_path_factory.mktemp("tiny") / "package", monkeypatch)
    ran = walk(REPOSITORY / "docs/tutorial_scans.md", tmp_path, monkeypatch)
    assert [words[1] for words in ran if words[0] == "medsam-adapt"] == [
        "data", "train", "train", "train", "evaluate", "report", "predict", "train", "compare",
    ]  # fmt: skip
    assert "viewer" in (tmp_path / "runs/liver/report.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 10
    assert json.loads((tmp_path / "comparison/compare.json").read_text())["seeds"] == {"blosam": [0], "lora": [0]}


@pytest.mark.docs
@every_page
def test_every_page_can_be_followed(page, tmp_path, monkeypatch):
    walk(page, tmp_path, monkeypatch)


@pytest.mark.docs
def test_the_site_builds_without_a_warning(tmp_path, monkeypatch):
    build = pytest.importorskip("mkdocs.commands.build", reason="needs pip install medsam-adapt[docs]")
    config = importlib.import_module("mkdocs.config")
    monkeypatch.chdir(REPOSITORY)
    build.build(config.load_config(str(REPOSITORY / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    assert (tmp_path / "methods/blosam/index.html").is_file()
