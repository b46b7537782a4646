"""Text for readers is plain, modern technical English: no phrase of this list, in documentation, messages and code."""

import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# Phrase to avoid -> what to write instead.
AVOID = {
    r"\b(?:tell|tells|told)\b": "print, report, show, state, name",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bgo(?:es)? on with\b": "continue with, skip cases whose output exists",
    r"\bgo on (?:from|to|where)\b": "continue",
    r"\bfor want of\b": "without, because there is no",
    r"\bby hand\b": "measured manually",
    r"\bto the (?:same|last) bits?\b|\bthe same bits\b": "bit-identical",
    r"\bof (?:its|their|your) own\b": "separate",
    r"\bof its own accord\b": "automatically",
    r"\bstands? in\b": "is in, replaces",
    r"\bworth a second look\b": "flagged for review",
    r"\bdecides every random draw\b": "random seed",
    r"\bdo nothing\b": "print the plan and exit",
    r"\ba (?:folder|file|row|line) a (?:volume|class|case|structure)\b": "one folder per volume",
    r"\b(?:what )?came of\b": "the result of",
    r"\blearnt? by heart\b": "overfitting",
    r"\bat hand\b": "available",
    r"\bgraphics cards?\b": "GPU",
    r"\b(?:says|said)\b|(?<!import\s)(?<!,\s)(?<![.\w])\bsay\b(?!\()": "states, shows, names, such as",
}
CLEAN = (
    "README.md", "AGENTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "mkdocs.yml", ".github", "benchmarks",
    "bundles", "cli", "docs", "medsam_adapt", "pretraining", "tests",
)  # fmt: skip
KINDS = {".py", ".md", ".json", ".html", ".js", ".yml", ".toml"}
_SELF = Path(__file__).relative_to(REPOSITORY).as_posix()


@cache
def files():
    """Files whose wording is checked, relative to the repository, with their text."""
    found = [REPOSITORY / name for name in CLEAN]
    paths = [path for start in found for path in ([start] if start.is_file() else sorted(start.rglob("*")))]
    names = [path.relative_to(REPOSITORY).as_posix() for path in paths if path.suffix in KINDS and path.is_file()]
    names = [name for name in names if name != _SELF and "__pycache__" not in name]
    return {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in names}


def test_there_are_files_to_check():
    assert "README.md" in files()
    assert "docs/prediction.md" in files()


@pytest.mark.parametrize("phrase", AVOID)
def test_no_text_has_an_odd_phrase(phrase):
    pattern = re.compile(phrase.replace(" ", r"\s+(?:#\s*)?"), re.IGNORECASE)  # a phrase may be broken across lines
    found = []
    for name, text in files().items():
        found += [f"{name}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]!r}" for hit in pattern.finditer(text)]
    assert not found, f"write {AVOID[phrase]!r} instead:\n" + "\n".join(found)
