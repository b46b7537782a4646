"""Report pages of many shapes, made from invented scores and pictures without a run or a network."""

from functools import cache

import numpy as np

from medsam_adapt.evaluation.packing import Volumes, pack
from medsam_adapt.report.curves import Curve
from medsam_adapt.report.facts import Facts
from medsam_adapt.report.page import PageContent, make_page
from medsam_adapt.scoring.metrics import MetricRules, score_volume
from medsam_adapt.scoring.summary import summarise

ABDOMEN = ("liver", "right kidney", "spleen", "left kidney", "aorta")
HEAD_AND_NECK = (
    "Brain", "BrainStem", "Chiasm", "Cochlea_L", "Cochlea_R", "Esophagus", "ETbone_L", "ETbone_R", "Eye_L", "Eye_R",
    "Hippocampus_L", "Hippocampus_R", "IAC_L", "IAC_R", "Larynx", "Larynx_Glottic", "Larynx_Supraglot", "Lens_L",
    "Lens_R", "Mandible_L", "Mandible_R", "Mastoid_L", "Mastoid_R", "MiddleEar_L", "MiddleEar_R", "OpticNerve_L",
    "OpticNerve_R", "OralCavity", "Parotid_L", "Parotid_R", "PharynxConst", "Pituitary", "SpinalCord",
    "Submandibular_L", "Submandibular_R", "TemporalLobe_L", "TemporalLobe_R", "Thyroid", "Trachea",
    "TympanicCavity_L", "TympanicCavity_R", "TMjoint_L", "TMjoint_R", "VestibulSemi_L", "VestibulSemi_R",
)  # fmt: skip
UNBROKEN = "deep_inferior_epigastric_artery_perforator_of_the_left_abdominal_wall"
UID = "1.2.826.0.1.3680043.8.498.1234567890123456789012345678901234567"
CITATION = (
    "H. Author, A. Nother. A Title of a Paper on Segmentation. Proceedings of a Conference, 2024. arXiv 2401.00000."
)


@cache
def case_of(name, classes, seed, shape, colour, images=()):
    """Volumes of one case: a box for each class, and a prediction that is a few voxels off."""
    rng = np.random.default_rng(seed)
    several = (3,) if colour else (len(images),) if images else ()
    image = rng.uniform(60, 200, (*several, *shape)).astype(np.float32)
    reference = np.zeros(shape, np.uint8)
    for number in range(1, classes + 1):
        first = [int(rng.integers(side // 8, side - side // 4)) for side in shape]
        reference[tuple(slice(at, at + max(1, side // 4)) for at, side in zip(first, shape, strict=True))] = number
    prediction = np.roll(reference, (1 + seed % 3, 1, 0), axis=(0, 1, 2))
    return Volumes(name, image, prediction, reference, (1.0, 1.0, 2.5), images)


def page(
    classes=ABDOMEN,
    cases=("case_1", "case_2", "case_3", "case_4"),
    axis="axial",
    shown=3,
    shape=(48, 40, 16),
    colour=False,
    images=(),
    notes=(),
    run="liver run",
):
    """The HTML of a page.

    Args:
        classes: names.
        cases: ids.
        axis: slicing direction.
        shown: how many cases are in the viewer.
        shape: of a volume, voxels.
        colour: whether the images are in colour.
        images: names of the images of a case that are taken together.
        notes: for the reader.
        run: name of the run.
    """
    volumes = [case_of(case, len(classes), seed, shape, colour, images) for seed, case in enumerate(cases)]
    rules = MetricRules()
    scores = {
        each.case: score_volume(each.prediction, each.reference, classes, each.spacing, rules) for each in volumes
    }
    roles = {1: ("only",), 2: ("worst", "best"), 3: ("worst", "median", "best")}.get(shown, ())
    packed = [pack(each, axis, len(classes)) for each in volumes[:shown]]
    rows = [(f"setting_{index}", f"value {index}") for index in range(40)]
    data = [("layout", "folder"), ("classes", ", ".join(classes)), ("trained on", ", ".join(cases)), ("file", UID)]
    steps = np.arange(1.0, 61.0)
    return make_page(
        PageContent(
            run=run,
            facts=Facts("BLO-SAM", "Trains a prompt.", [CITATION, CITATION], rows[:8], data, rows[:4], rows, rows[:6]),
            metrics=summarise(scores, classes, rules, notes=notes),
            trained_on=cases[1:2],
            curves=[Curve("loss", steps, 1 / steps), Curve("val_mean_dsc", steps[::10], 1 - 1 / (steps[::10] + 1))],
            axis=axis,
            shown=list(zip(roles, packed, strict=True)),
            notes=notes,
            about_slices=["Slices are shown of some cases."],
        )
    )


PAGES = {
    "typical": {},
    "one case": {"cases": ("case_1",), "shown": 1},
    "two cases": {"cases": ("case_1", "case_2"), "shown": 2},
    "many classes": {"classes": HEAD_AND_NECK, "cases": tuple(f"segrap_{number:04d}" for number in range(12))},
    "long names": {
        "classes": (UNBROKEN, "right kidney " * 5, "s"),
        "cases": (UID, f"{UID}.1", "Case of a patient with a long name"),
        "notes": (f"Case {UID} has no voxel of {UNBROKEN}.",),
        "run": UNBROKEN * 2,
    },
    "sagittal": {"axis": "sagittal", "shape": (16, 60, 24)},
    "tall slices": {"axis": "coronal", "shape": (16, 16, 40)},
    "wide slices": {"shape": (64, 12, 16)},
    "colour pictures": {"classes": ("polyp",), "shape": (40, 40, 1), "colour": True},
    "images of a case": {"images": ("FLAIR", "T1w", "T1gd with a long name of 64 letters or nearly so", "T2w")},
    "no pictures": {"shown": 0},
}
