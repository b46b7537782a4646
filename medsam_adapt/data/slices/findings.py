"""Classes of which a patient may have several pieces, anywhere: lesions and vessels, not organs."""

from __future__ import annotations

import re

ENOUGH_PATIENTS = 5  # whose labels show what such a class is like

# By the beginnings of words in its name.
_SEVERAL = re.compile(
    r"(?<![a-z])(lesion|tumou?r|cancer|carcinoma|neoplas|metasta|mass(es)?(?![a-z])|nodul|node|lymph|cysts?(?![a-z])|polyp"
    r"|plaque|calcif|infarct|ischa?em|stroke|ha?emorrh|ha?ematom|bleed|opacit|consolidat|infect|inflam|o?edema|necro"
    r"|enhanc|hyperintens|wmh|abscess|aneurysm|fractur|vessel|vascul|bronch|airway)",
    re.IGNORECASE,
)


def may_be_several(name: str, patients: int) -> bool:
    """Whether a class of this name may be in several places, and labels of so few patients need not show it."""
    return patients < ENOUGH_PATIENTS and bool(_SEVERAL.search(name))
