import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets import layouts
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.volumes.io import write_label
from tests.data import samples
from tests.data.dicom_files import STORED, save, series


def volume(path, value=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), value, np.uint8), np.eye(4)), path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def adome(root):
    for number in (1, 2):
        volume(root / f"images/FLARE22_Tr_000{number}_0000.nii.gz")
        volume(root / f"labels/FLARE22_Tr_000{number}.nii.gz")


def folder(root):
    volume(root / "images/a_0000.nii.gz")
    volume(root / "labels/a_seg.nii.gz")
    volume(root / "images/b.nii")
    volume(root / "labels/b_label.nii.gz")
    text(root / "labels.json", {"2": "spleen", "1": "liver"})
    text(root / "images/._b.nii", "macOS")


ENTRIES = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"]


def msd(root):
    for entry in ENTRIES:
        volume(root / entry["image"])
        volume(root / entry["label"])
    dots = {"image": "./imagesTr/._a.nii.gz", "label": "./labelsTr/._a.nii.gz"}
    text(
        root / "dataset.json",
        {"training": [*ENTRIES, dots], "labels": {"0": "background", "1": "liver", "2": "spleen"}},
    )


def datalist(root):
    msd(root)
    (root / "dataset.json").unlink()
    entries = [{**ENTRIES[0], "case_id": "a", "patient": "p"}, {**ENTRIES[1], "patient": "p"}]
    text(root / "datalist.json", {"training": entries, "labels": [{"id": 1, "name": "liver"}]})


def dicom(root):
    for name in "ab":
        images = save(root / name / "CT", series(STORED[:5, :4, :3]))
        write_label(root / name / "label.nii.gz", np.ones((3, 4, 5), np.uint8), images)
    text(root / "labels.json", {"1": "liver"})


SAMPLES = {"adome": adome, "dicom": dicom, "folder": folder, "msd": msd, "datalist": datalist}


def test_every_layout_has_a_sample_and_bears_its_files_name():
    assert set(layouts.layout_names()) == set(SAMPLES) | {samples.layout_of(name) for name in samples.SAMPLES}
    for name in layouts.layout_names():
        layout = layouts.get_layout(name)
        assert (layout.NAME, bool(layout.DESCRIPTION)) == (name, True)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_layout_is_recognised_and_read(tmp_path, name):
    SAMPLES[name](tmp_path)
    found = find_cases(tmp_path)
    assert found.layout == name
    assert found == find_cases(tmp_path, name)
    stems = ["FLARE22_Tr_0001", "FLARE22_Tr_0002"] if name == "adome" else ["a", "b"]
    assert [case.id for case in found.cases] == stems
    assert all(case.image.exists() and case.label.is_file() for case in found.cases)
    assert found.classes[1] == "liver"
    assert list(found.classes) == sorted(found.classes)
    assert 0 not in found.classes
    assert check_cases(found).voxels[stems[0]][1] == 60


def test_adome_has_flares_thirteen_classes(tmp_path):
    adome(tmp_path)
    classes = find_cases(tmp_path).classes
    assert list(classes) == list(range(1, 14))
    assert (classes[2], classes[10], classes[13]) == ("right kidney", "esophagus", "left kidney")


def test_a_datalist_is_named_by_its_file_too_and_keeps_patients(tmp_path):
    datalist(tmp_path)
    (tmp_path / "datalist.json").rename(tmp_path / "my.json")
    found = find_cases(tmp_path / "my.json")
    assert (found.layout, {case.patient_id for case in found.cases}) == ("datalist", {"p"})


def test_numbered_cases_are_not_taken_for_channels(tmp_path):
    for number in range(2):
        volume(tmp_path / f"images/case_000{number}.nii.gz")
        volume(tmp_path / f"labels/case_000{number}.nii.gz")
    assert [case.id for case in find_cases(tmp_path).cases] == ["case_0000", "case_0001"]


def test_labels_are_needed_only_where_asked(tmp_path):
    volume(tmp_path / "images/a.nii.gz")
    found = find_cases(tmp_path, need_labels=False)
    assert [(case.id, case.label) for case in found.cases] == [("a", None)]
    with pytest.raises(InputError, match=r"labels: .*does not exist. Create it"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "raw", [{"1": "liver", "0": "background"}, {"background": 0, "liver": 1}, [{"id": 1, "name": "liver"}]]
)
def test_names_of_classes_in_each_form(raw):
    assert layouts.class_map(raw, Path("labels.json")) == {1: "liver"}


@pytest.mark.parametrize("raw", [None, [1], {"1": 1}, {"1": ""}, {"-1": "x"}, {"70000": "x"}, {"1": "A b", "2": "a_B"}])
def test_names_of_classes_in_no_form_are_told(raw):
    with pytest.raises(InputError, match=r"labels\.json: .*Write them as"):
        layouts.class_map(raw, Path("labels.json"))


def without(path):
    return lambda root: (root / path).unlink()


def entry(**change):
    return lambda root: text(
        root / "datalist.json", {"training": [{"image": "a.nii.gz", "label": "a.nii.gz", **change}]}
    )


def start_datalist(root):
    volume(root / "a.nii.gz")
    text(root / "b.txt", "b")


BROKEN = {
    "image without a label": (folder, without("labels/b_label.nii.gz"), r"images/b\.nii: it has no label\. Add"),
    "label without an image": (folder, without("images/b.nii"), r"labels/b_label\.nii\.gz: it has no image\. Add"),
    "two suffixes": (folder, lambda root: volume(root / "images/b.nii.gz"), r"b\.nii.* same name .*\. Remove one"),
    "two labels": (folder, lambda root: volume(root / "labels/b.nii"), "is a label of b too. Remove one"),
    "two images": (folder, lambda root: volume(root / "images/a.nii"), "is an image of a too. Remove one"),
    "names are no JSON": (
        folder,
        lambda root: text(root / "labels.json", '{"1": "liver",\n "2" "x"}'),
        r"labels\.json.* not JSON at line 2.*orrect",
    ),
    "adome channel": (
        adome,
        lambda root: volume(root / "images/x.nii"),
        r"x\.nii: its name does not end in _0000.*Rename",
    ),
    "msd is a list": (msd, lambda root: text(root / "dataset.json", "[]"), r"dataset\.json.* must hold .*orrect"),
    "msd list": (
        msd,
        lambda root: text(root / "dataset.json", {"labels": {}}),
        r'dataset\.json: it has no list "train.*Add',
    ),
    "msd names": (
        msd,
        lambda root: text(root / "dataset.json", {"training": ENTRIES}),
        r"dataset\.json: .*Write them as",
    ),
    "msd file": (msd, without("imagesTr/a.nii.gz"), r"dataset\.json: it names .*imagesTr/a\.nii\.gz, .*add the file"),
    "outside": (
        start_datalist,
        entry(image="../a.nii.gz"),
        r"datalist\.json: it names \.\./a\.nii\.gz, .*outside.*Move",
    ),
    "absolute": (start_datalist, entry(label="/etc/passwd"), r"datalist\.json: it names /etc/passwd, .*outside.*Move"),
    "format": (
        start_datalist,
        entry(image="b.txt"),
        r"datalist\.json: it names b\.txt, .*no supported format.*Convert",
    ),
    "no label": (start_datalist, entry(label=None), r"datalist\.json: it gives no label for a\.nii\.gz\. Add"),
    "channels": (start_datalist, entry(image=["a", "b"]), r"datalist\.json: it names a, which does not exist.*Correct"),
    "image": (start_datalist, entry(image={"a": 1}), r"datalist\.json: it has \{.*path of one file.*Correct"),
    "id": (start_datalist, entry(id="../../x"), r"id '\.\./\.\./x' cannot be part of.*Choose"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_data_set_is_refused_with_the_file_and_the_fix(tmp_path, case):
    make, damage, sentence = BROKEN[case]
    make(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=sentence) as reported:
        find_cases(tmp_path)
    assert str(tmp_path) in str(reported.value)
    assert "\n" not in str(reported.value)


def test_a_link_inside_the_folder_may_lead_out(tmp_path):
    volume(tmp_path / "store/a.nii.gz")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.nii.gz").symlink_to(tmp_path / "store/a.nii.gz")
    text(tmp_path / "set/datalist.json", {"training": [{"image": "a.nii.gz", "label": "a.nii.gz"}]})
    assert [case.id for case in find_cases(tmp_path / "set").cases] == ["a"]


def test_many_problems_are_told_at_once_and_counted(tmp_path):
    for number in range(13):
        volume(tmp_path / f"images/case_{number}.nii.gz")
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError) as reported:
        find_cases(tmp_path)
    lines = str(reported.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 3 more problems."


def test_the_real_adome_case_lacks_only_the_esophagus(real_data):
    found = find_cases(real_data / "adome_one_case")
    assert (found.layout, [case.id for case in found.cases]) == ("adome", ["FLARE22_Tr_0001"])
    assert check_cases(found).absent_classes() == ("esophagus",)
