"""A number and its noun agree: messages count with `core.text.counted`, which writes "1 case" and "2 cases"."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOUNS = (
    "block", "case", "change", "channel", "class", "epoch", "file", "fold", "image", "label", "mask", "name", "part",
    "patient", "problem", "process", "region", "rule", "run", "scan", "slice", "step", "structure", "training", "view",
    "volume", "voxel", "warning",
)  # fmt: skip
_PLURAL = re.compile(rf" (?:[a-z-]+ )?(?:{'|'.join(NOUNS)})(?:e?s)\b")
_COUNT = re.compile(r"len\(|(?:^|[._])(?:count|total|steps|epochs|patients|cases)$")  # what is certainly a number
# Modules whose numbers are certainly above one: of classes beyond the most that are possible, of four channels.
SEVERAL = {"medsam_adapt/data/slices/training_cases.py", "medsam_adapt/data/slices/slicing_spec.py"}


def faults(source: str) -> list[str]:
    """Expressions that write a number before a noun which is in the plural whatever the number is."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            if isinstance(node.left, ast.Constant) and node.left.value in ("s", "es"):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.JoinedStr):
            for part, following in zip(node.values, node.values[1:], strict=False):
                if not (isinstance(part, ast.FormattedValue) and isinstance(following, ast.Constant)):
                    continue
                written = ast.unparse(part.value)
                if _COUNT.search(written) and "counted(" not in written and _PLURAL.match(str(following.value)):
                    found.append(f"{node.lineno}: {{{written}}}{following.value}")
    return found


@pytest.mark.parametrize("folder", ["medsam_adapt", "cli"])
def test_numbers_agree_with_their_nouns(folder):
    wrong = []
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        name = path.relative_to(REPOSITORY).as_posix()
        if name not in SEVERAL:
            wrong += [f"{name}:{fault}" for fault in faults(path.read_text(encoding="utf-8"))]
    assert not wrong, "write core.text.counted(number, noun):\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("f'{len(found)} cases'", False),
        ("f'{len(found)} sliced cases'", False),
        ("f'{knobs.epochs} epochs would not pay'", False),
        ("f'{count} case{\"s\" * (count > 1)}'", False),
        ("f'{counted(len(found), \"case\")} found'", True),
        ("f'{axis} slices'", True),
    ],
)
def test_a_number_with_a_fixed_plural_is_found(line, right):
    assert (faults(line) == []) is right
