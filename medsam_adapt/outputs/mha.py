"""MetaImage (.mha): a label map with spacing, origin and directions in LPS."""

from medsam_adapt.outputs._itk_label_map import HOLDS_OVERLAP, NEEDS_DICOM, require, write

__all__ = ["DESCRIPTION", "HOLDS_OVERLAP", "NEEDS_DICOM", "SUFFIX", "require", "write"]

SUFFIX = "_seg.mha"
DESCRIPTION = "MetaImage label map, which challenges ask for"
