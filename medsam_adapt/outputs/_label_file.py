"""ITK-SNAP's label description file: number, colour and name of each label beside a label map."""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.files import written_whole
from medsam_adapt.outputs import Segmentation
from medsam_adapt.outputs._anatomy import describe

_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
"""


def write_label_file(path: Path, segmentation: Segmentation) -> None:
    """Write the description of all labels, whole or not at all."""
    rows = []
    for name, label_id in zip(segmentation.names, segmentation.label_ids, strict=True):
        red, green, blue = describe(name, label_id).colour
        quoted = name.replace('"', "'")
        rows.append(f'{label_id:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{quoted}"\n')
    with written_whole(path) as temporary:
        temporary.write_text(_HEADER + "".join(rows), encoding="utf-8")
