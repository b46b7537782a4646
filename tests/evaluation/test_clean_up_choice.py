"""The clean-up of a run: chosen where it raises the DSC of held-out volumes, and never worse than none on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from medsam_adapt.data.slices.clean_up import ClassCleanUp
from medsam_adapt.data.slices.slicing_spec import joint_cleanings
from medsam_adapt.data.volumes.cleaning import clean_each
from medsam_adapt.evaluation.clean_up_choice import ENOUGH, CleanUpChoice, choose, score_steps, suggestions
from tests.slicing import slicing_of

NAMES, SIDES = ["class 1", "class 2"], (1, 1, 1)


def cube(*blocks, size=16):
    """A map with cubes: class, corner, side."""
    classes = np.zeros((size, size, size), np.uint8)
    for number, corner, side in blocks:
        classes[tuple(slice(start, start + side) for start in corner)] = number
    return classes


def steps_of(name, held_out=True):
    given = {"name": name, "held_out": held_out}
    return [
        ClassCleanUp(**given, step="fragments", min_share=0.25),
        ClassCleanUp(**given, step="largest"),
        ClassCleanUp(**given, step="holes"),
    ]


def chosen(volumes, held_out=True):
    """What is chosen for both classes by (prediction, reference) pairs."""
    steps = [steps_of(name, held_out) for name in NAMES]
    scores = [score_steps(*pair, NAMES, steps, SIDES) for pair in volumes]
    return [choose(each, [found[each[0].name] for found in scores if each[0].name in found]) for each in steps]


LIVER, BESIDE, FAR = (1, (0, 0, 0), 6), (1, (8, 0, 0), 5), (1, (0, 12, 12), 2)


def test_the_largest_piece_alone_is_chosen_where_it_helps():
    first, second = chosen([(cube(LIVER, BESIDE), cube(LIVER))] * ENOUGH)
    assert (first.step, first.patients, first.held_out) == ("largest", ENOUGH, True)  # 125 of 216 voxels: no fragment
    assert first.dsc == {"none": round(432 / 557, 4), "fragments": round(432 / 557, 4), "largest": 1, "holes": 0.7756}
    assert (second.step, second.dsc) == ("fragments", {})  # in no volume: the labels alone suggest it


def test_it_is_left_alone_where_it_hurts():
    first, _ = chosen([(cube(LIVER, BESIDE), cube(LIVER, BESIDE))] * ENOUGH)
    assert first.step == "none"
    assert first.dsc["largest"] < first.dsc["none"] == 1
    assert first.rejects("largest")
    assert not first.rejects("fragments")


def test_one_patient_whom_it_helps_does_not_outweigh_those_whom_it_hurts():
    helped, hurt = (cube(LIVER, BESIDE), cube(LIVER)), (cube(LIVER, BESIDE), cube(LIVER, BESIDE))
    assert chosen([helped] + [hurt] * (ENOUGH - 1))[0].step == "none"
    assert chosen([helped] * (ENOUGH - 1) + [hurt])[0].step == "largest"


def test_on_ties_nothing_is_done_and_of_equal_steps_the_labels_suggestion_is_taken():
    assert chosen([(cube(LIVER), cube(LIVER))] * ENOUGH)[0].step == "none"
    assert chosen([(cube(LIVER, FAR), cube(LIVER))] * ENOUGH)[0].step == "fragments"


def test_holes_are_filled_where_the_labels_have_none():
    hollow = cube(LIVER, (0, (2, 2, 2), 2))
    assert chosen([(hollow, cube(LIVER))] * ENOUGH)[0].step == "holes"
    assert chosen([(hollow, hollow)] * ENOUGH)[0].step == "none"


@pytest.mark.parametrize(("held_out", "count"), [(False, ENOUGH + 2), (True, ENOUGH - 1)])
def test_too_little_evidence_takes_what_the_labels_suggest_unless_it_hurts(held_out, count):
    perfect, fragment = (cube(LIVER), cube(LIVER)), (cube(LIVER, FAR), cube(LIVER))
    missed = (cube((1, (0, 0, 0), 3), FAR), cube((1, (0, 0, 0), 3), FAR, size=16))  # 8 of 27 voxels are kept
    lost = (cube(LIVER, FAR), cube(LIVER, FAR))
    assert chosen([perfect] * count, held_out)[0].step == "fragments"
    assert chosen([fragment] * count, held_out)[0].step == "fragments"
    assert chosen([missed] * count, held_out)[0].step == "fragments"
    assert chosen([lost] * count, held_out)[0].step == "none"
    second_piece = (cube(LIVER, BESIDE), cube(LIVER))  # too large for a fragment
    assert chosen([second_piece] * count, held_out)[0].step == "largest"
    both = (cube(LIVER, BESIDE), cube(LIVER, BESIDE))
    assert chosen([second_piece, *[both] * (count - 1)], held_out)[0].step == "fragments"
    assert choose(steps_of("class 1", held_out), []).step == "fragments"


def random_pair(random):
    """A reference of two blobs, and a prediction of it with pieces and holes at random places."""
    reference = cube((1, tuple(random.integers(0, 5, 3)), 7), (2, tuple(random.integers(8, 10, 3)), 6))
    prediction = reference.copy()
    for _ in range(random.integers(0, 9)):
        corner, side = random.integers(0, 14, 3), random.integers(1, 5)
        prediction[tuple(slice(start, start + side) for start in corner)] = random.integers(0, 3)
    if random.random() < 0.5:  # a second piece that the patient has
        corner = random.integers(0, 12, 3)
        for each in (prediction, reference):
            each[tuple(slice(start, start + 3) for start in corner)] = 1
    return prediction, reference


def mean_dsc(pairs, number):
    values = []
    for prediction, reference in pairs:
        mask, truth = prediction == number, reference == number
        values.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    return np.mean(values)


@pytest.mark.parametrize("seed", range(40))
def test_no_class_is_worse_with_its_clean_up_than_without_on_the_volumes_that_chose_it(seed):
    random = np.random.default_rng(seed)
    pairs = [random_pair(random) for _ in range(ENOUGH + seed % 4)]
    choices = chosen(pairs)
    cleanings = joint_cleanings([slicing_of(num_classes=2, cleaning=choices)])
    assert len(cleanings) == sum(choice.step != "none" for choice in choices)
    cleaned = [(clean_each(prediction, cleanings, SIDES), reference) for prediction, reference in pairs]
    for number, choice in enumerate(choices, start=1):
        before, after = mean_dsc(pairs, number), mean_dsc(cleaned, number)
        assert after > before if choice.step != "none" else after == before
        assert (round(before, 4), round(after, 4)) == pytest.approx((choice.dsc["none"], choice.dsc[choice.step]))


def test_voxels_that_nobody_labelled_count_for_nothing():
    reference = cube(LIVER, (255, (8, 0, 0), 5))
    (step,) = [steps_of("class 1")]
    found = score_steps(cube(LIVER, BESIDE), reference, NAMES, [step], SIDES)
    assert found == {"class 1": {"none": 1, "fragments": 1, "largest": 1, "holes": 1}}


def test_a_class_that_was_not_found_has_a_dsc_of_0_whatever_is_done():
    found = score_steps(cube(), cube(LIVER), NAMES, [steps_of("class 1")], SIDES)
    assert found == {"class 1": {"none": 0, "fragments": 0, "largest": 0, "holes": 0}}


def test_a_class_that_is_rightly_removed_altogether_has_a_dsc_of_1():
    small = ClassCleanUp(name="class 1", step="small", min_volume_ml=0.1)
    assert score_steps(cube(FAR), cube(), NAMES, [[small]], SIDES) == {"class 1": {"none": 0, "small": 1}}
    assert score_steps(cube(), cube(), NAMES, [[small]], SIDES) == {}


def data_of(*labels, names=tuple(NAMES)):
    """Training data of maps (X, Y, Z), each stored as slices along its first axis, voxels of 1 mm."""
    cases = {
        f"case {index}": SimpleNamespace(
            labels=label, voxels=np.stack([np.bincount(each.ravel(), minlength=3)[:3] for each in label])
        )
        for index, label in enumerate(labels)
    }
    headers = {
        name: SimpleNamespace(affine=np.eye(4), shape=label.shape) for name, label in zip(cases, labels, strict=True)
    }
    check = SimpleNamespace(headers=headers)
    return SimpleNamespace(class_names=list(names), store=lambda: cases, check=check, axis="sagittal")


def test_labels_of_one_piece_suggest_removing_fragments_and_others_small_pieces():
    stray = (1, (14, 14, 14), 1)
    data = data_of(cube(LIVER, stray, (2, (8, 8, 8), 3)), cube(LIVER, (2, (8, 8, 8), 3), (2, (8, 8, 13), 2)))
    first, second = suggestions(data, held_out=True)
    assert [each.step for each in first] == ["fragments", "largest", "holes"]
    assert first[0].longest_mm == round(1.2 * 6 * 3**0.5, 1)  # of the liver, without the stray voxel
    assert [(each.step, each.min_volume_ml) for each in second] == [("small", 0.004), ("holes", 0)]  # half of 8 mm³
    assert suggestions(data_of(cube(LIVER)), held_out=True)[0][0].name == "class 1"
    assert len(suggestions(data_of(cube(LIVER)), held_out=True)) == 1  # nothing of a class without a voxel
    assert suggestions(data, held_out=False) == [
        [each.model_copy(update={"held_out": False}) for each in steps] for steps in (first[:2], second[:1])
    ]


@pytest.mark.parametrize("name", ["Lesion", "liver_tumour", "lymph nodes", "WMH", "ischaemic stroke", "hepatic vessel"])
def test_one_lesion_in_few_patients_does_not_show_that_there_is_one(name):
    single, several = cube(LIVER), cube(LIVER, BESIDE)
    assert suggestions(data_of(*[single] * (ENOUGH - 1), names=(name, "spleen")), held_out=True) == []
    enough = [single] * ENOUGH
    assert suggestions(data_of(cube(), *enough, names=(name, "spleen")), held_out=True)[0][0].step == "fragments"
    assert suggestions(data_of(single, several, names=(name, "spleen")), held_out=True)[0][0].step == "small"


@pytest.mark.parametrize("name", ["masseter", "gallbladder", "cystic duct", "ischium", "thyroid gland", "left atrium"])
def test_an_organ_of_one_patient_is_one_piece(name):
    assert suggestions(data_of(cube(LIVER), names=(name, "spleen")), held_out=True)[0][0].step == "fragments"


FRAGMENTS = ClassCleanUp(name="class 1", step="fragments", min_share=0.25, dsc={"none": 0.8, "fragments": 0.9})
LARGEST = ClassCleanUp(name="class 1", step="largest", dsc={"none": 0.8, "fragments": 0.8, "largest": 0.9})
AGAINST = ClassCleanUp(name="class 1", dsc={"none": 0.8, "fragments": 0.7, "largest": 0.8})
UNDECIDED = ClassCleanUp(name="class 1", dsc={"none": 0.8, "fragments": 0.8, "largest": 0.8})


@pytest.mark.parametrize(
    ("runs", "step"),
    [
        ([FRAGMENTS], "fragments"),
        ([FRAGMENTS, UNDECIDED], "fragments"),
        ([UNDECIDED, FRAGMENTS], "fragments"),
        ([FRAGMENTS, AGAINST], None),  # one fold rejected it
        ([FRAGMENTS, LARGEST], "fragments"),  # the milder one
        ([FRAGMENTS, LARGEST, LARGEST], "largest"),  # what most folds chose
        ([FRAGMENTS, LARGEST, AGAINST], "largest"),
        ([UNDECIDED, AGAINST], None),
    ],
)
def test_folds_that_segment_together_do_what_one_chose_and_none_rejected(runs, step):
    specs = [slicing_of(num_classes=2, cleaning=[each]) for each in runs]
    expected = {} if step is None else {1: ClassCleanUp(name="class 1", step=step, min_share=0.25 * (step[0] == "f"))}
    assert joint_cleanings(specs) == {number: each.cleaning for number, each in expected.items()}


def test_a_run_without_a_choice_rejects_nothing():
    assert joint_cleanings([slicing_of(num_classes=2), slicing_of(num_classes=2, cleaning=[FRAGMENTS])])


@pytest.mark.parametrize(("held_out", "most", "judged"), [(False, 2, 2), (False, 5, 4), (True, 2, 4)])
def test_a_pass_over_training_volumes_ends_after_as_many_as_there_is_time_for(held_out, most, judged):
    choice = CleanUpChoice(data_of(cube(LIVER)), held_out)
    choice.most = most

    def step(engine, batch):
        image = MetaTensor(torch.zeros(1, 16, 16, 16))
        engine.state.batch = [{"id": batch, "image": image, "label": torch.as_tensor(cube(LIVER))[None]}]
        return [{"pred": torch.as_tensor(cube(LIVER, FAR))[None]}]

    engine = Engine(step)
    choice.attach(engine)
    for _ in range(2):  # the second pass forgets the first
        engine.run(["a", "b", "c", "d"])
        (found,) = choice.choices()
        assert (found.step, found.patients, found.held_out) == ("fragments", judged, held_out)
        assert found.dsc["none"] < found.dsc["fragments"] == 1
