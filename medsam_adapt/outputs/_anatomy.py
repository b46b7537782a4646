"""Colours and SNOMED CT codes of structures, by name: what viewers and DICOM ask for beside a mask.

A name is looked up without its side ("left kidney" is a kidney, left). Structures that are not in the table get a
separate colour and the general code of an anatomical structure.
"""

from __future__ import annotations

import re
from colorsys import hsv_to_rgb
from typing import NamedTuple

from medsam_adapt.core.text import class_key


class Code(NamedTuple):
    """A concept of SNOMED CT: its code and its meaning in words."""

    value: str
    meaning: str


class Structure(NamedTuple):
    """What is known of a structure.

    Attributes:
        code: what it is; `ANATOMICAL_STRUCTURE` where the table does not have it.
        side: left or right, None without one.
        colour: red, green, blue from 0 to 255.
    """

    code: Code
    side: Code | None
    colour: tuple[int, int, int]


ANATOMICAL_STRUCTURE = Code("91723000", "Anatomical Structure")
SIDES = {"right": Code("24028007", "Right"), "left": Code("7771000", "Left")}

# name: (SNOMED CT code, meaning, colour); the colours are those that radiologists know from anatomical atlases
_TABLE: dict[str, tuple[str, str, tuple[int, int, int]]] = {
    "liver": ("10200004", "Liver", (221, 130, 101)),
    "kidney": ("64033007", "Kidney", (185, 102, 83)),
    "spleen": ("78961009", "Spleen", (157, 108, 162)),
    "pancreas": ("15776009", "Pancreas", (249, 180, 111)),
    "aorta": ("15825003", "Aorta", (224, 97, 76)),
    "inferior vena cava": ("64131007", "Inferior vena cava", (0, 151, 206)),
    "adrenal gland": ("23451007", "Adrenal gland", (249, 186, 150)),
    "gallbladder": ("28231008", "Gallbladder", (139, 150, 98)),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143)),
    "stomach": ("69695003", "Stomach", (216, 132, 105)),
    "duodenum": ("38848004", "Duodenum", (255, 253, 229)),
    "bladder": ("89837001", "Bladder", (222, 154, 132)),
    "prostate": ("41216001", "Prostate", (230, 158, 140)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "heart": ("80891009", "Heart", (206, 110, 84)),
    "colon": ("71854001", "Colon", (204, 168, 143)),
    "brainstem": ("119238007", "Brain Stem", (85, 188, 255)),
    "spinal cord": ("2748008", "Spinal cord", (244, 214, 49)),
    "optic nerve": ("18234004", "Optic nerve", (234, 234, 194)),
    "optic chiasm": ("244453006", "Optic chiasm", (230, 210, 120)),
    "parotid gland": ("45289007", "Parotid gland", (255, 204, 153)),
    "submandibular gland": ("54019009", "Submandibular gland", (240, 190, 130)),
    "mandible": ("91609006", "Mandible", (222, 198, 101)),
    "thyroid": ("69748006", "Thyroid", (62, 162, 114)),
    "trachea": ("44567001", "Trachea", (182, 228, 255)),
    "larynx": ("4596009", "Larynx", (150, 208, 243)),
    "pituitary": ("56329008", "Pituitary", (253, 135, 192)),
    "hippocampus": ("5366008", "Hippocampus", (78, 63, 0)),
}
_SYNONYMS = {
    "ivc": "inferior vena cava",
    "postcava": "inferior vena cava",
    "oesophagus": "esophagus",
    "adrenal": "adrenal gland",
    "gall bladder": "gallbladder",
    "urinary bladder": "bladder",
    "brain stem": "brainstem",
    "chiasm": "optic chiasm",
    "parotid": "parotid gland",
    "submandibular": "submandibular gland",
    "thyroid gland": "thyroid",
    "kidneys": "kidney",
    "lungs": "lung",
}
_SIDE_WORDS = {"right": "right", "r": "right", "left": "left", "l": "left"}
_GOLDEN = 0.61803398875  # steps of the golden ratio keep the hues of neighbouring ids apart


def describe(name: str, label_id: int) -> Structure:
    """Code, side and colour of a structure by its name; ``label_id`` decides the colour of an unknown one."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # "OpticNerve_R" as people write file names
    words = class_key(spaced).split()
    sides = {_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS}
    bare = " ".join(word for word in words if word not in _SIDE_WORDS)
    side = SIDES[sides.pop()] if len(sides) == 1 else None
    known = _TABLE.get(_SYNONYMS.get(bare, bare))
    if known is None:
        red, green, blue = (round(255 * part) for part in hsv_to_rgb(label_id * _GOLDEN % 1, 0.6, 0.9))
        return Structure(ANATOMICAL_STRUCTURE, side, (red, green, blue))
    value, meaning, colour = known
    return Structure(Code(value, meaning), side, _shade(colour) if side == SIDES["left"] else colour)


def _shade(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """A darker tone, to distinguish left and right of a pair."""
    red, green, blue = (round(0.75 * part) for part in colour)
    return red, green, blue
