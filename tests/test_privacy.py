"""Nothing that identifies a patient leaves the headers: every byte of every output is searched for planted marks."""

import base64
import gzip
import io
import json
import re
import shutil
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medsam_adapt.cli.main import main
from tests.data.dicom_files import BIRTH, IDENTIFIER, SECRET, save, series

pytestmark = pytest.mark.usefixtures("tiny_nano")
FILE_PREFIX = "DOE_JANE_"  # of the files in a DICOM folder, which scanners call after the patient
SPACING = (2.0, 2.0, 5.0)


def body(number):
    """A CT (slices, rows, columns) stored as scanners do, and its label (X, Y, Z)."""
    label = np.zeros((20, 18, 5), np.uint8)
    label[3:11, 3:12, 1:4], label[12:17, 5:12, 1:4] = 1, 2
    hu = np.select([label == 1, label == 2], [120, -60], -900) + np.random.default_rng(number).normal(
        0, 10, label.shape
    )
    return (hu + 1024).astype(np.int16).transpose(2, 1, 0), label


def planted_cases(root):
    """Three cases of DICOM with NIfTI labels, marks in every header; returns all marks."""
    (root / "labels").mkdir(parents=True)
    marks = {SECRET, "Doe", "DOE_JANE", IDENTIFIER, BIRTH, "Hospital-0815", "ACC-99887"}
    for number in range(3):
        stored, label = body(number)
        identity = {"PatientID": f"{IDENTIFIER}-{number}", "InstitutionName": "Hospital-0815"}
        slices = series(stored, spacing=SPACING, AccessionNumber="ACC-99887", OtherPatientIDs=SECRET, **identity)
        save(root / "images" / f"case_{number}", slices, prefix=FILE_PREFIX)
        affine = np.diag([-SPACING[1], -SPACING[0], SPACING[2], 1.0])
        affine[:3, 3] = 30, 40, 100
        write_marked(root / "labels" / f"case_{number}.nii.gz", label, affine)
        names = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
        marks |= {str(item[name].value) for item in slices for name in names}
    (root / "labels.json").write_text(json.dumps({"1": "liver", "2": "spleen"}))
    return marks


def write_marked(path, voxels, affine):
    """A NIfTI file with marks in all of its free text."""
    image = nib.Nifti1Image(voxels, affine)
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = SECRET.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
    nib.save(image, path)


def layers(content, depth=0):
    """The bytes, and what is packed in them: gzip, zip, the compressed text of a PNG, base64 in a page."""
    yield content
    if depth > 3:
        return
    inner = []
    if content[:2] == b"\x1f\x8b":
        inner.append(gzip.decompress(content))
    elif content[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inner += [archive.read(name) for name in archive.namelist()]
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        for kind in (b"zTXt", b"iTXt", b"eXIf", b"iCCP"):
            for found in re.finditer(kind, content):
                for start in range(found.end(), min(found.end() + 90, len(content))):
                    try:
                        inner.append(zlib.decompressobj().decompress(content[start:]))
                        break
                    except zlib.error:
                        continue
    else:
        inner += [base64.b64decode(text) for text in re.findall(rb"base64,([A-Za-z0-9+/]{40,}={0,2})", content)]
    for part in inner:
        yield from layers(part, depth + 1)


def found_in(folders, marks):
    """(file, mark) of every mark in the names or the bytes of files, in UTF-8 or UTF-16."""
    coded = {mark: (mark.encode(), mark.encode("utf-16-le")) for mark in marks}
    found = []
    for path in (path for folder in folders for path in sorted(Path(folder).rglob("*"))):
        found += [(path, mark) for mark in marks if mark in path.name]
        for content in layers(path.read_bytes()) if path.is_file() else ():
            found += [(path, mark) for mark, forms in coded.items() if any(form in content for form in forms)]
    return found


@pytest.fixture(scope="module")
def done(tiny_nano, tmp_path_factory):
    """Everything that the commands leave behind for planted DICOM and NIfTI: folders, marks, and what was printed."""
    top = tmp_path_factory.mktemp("privacy")
    source, out, home = top / "HOSPITAL_ARCHIVE_DOE" / "data", top / "out", top / "home"
    marks = planted_cases(source)
    stored, _ = body(7)
    new = top / "HOSPITAL_ARCHIVE_DOE" / "new"
    new.mkdir()
    write_marked(new / "scan.nii.gz", stored.transpose(2, 1, 0) - np.int16(1024), np.diag([-2.0, -2.0, 5.0, 1.0]))
    out.mkdir()
    printed = io.StringIO()
    small = ["--device", "cpu", "--image-size", 32, "--epochs", 1, "--checkpoint", "random"]
    small += ["--set", "min_steps=1", "--set", "max_steps=1"]
    series_folder = source / "images" / "case_0"
    commands = [
        ["data", "check", source],
        ["data", "convert", source, "-o", out / "converted"],
        ["data", "split", source, "-o", out / "folds.json", "--folds", "3"],
        ["train", "--bundle", "lora", "--data", source, "--output", out / "run", *small],
        ["train", "--bundle", "decoder", "--data", source, "--output", out / "second", *small],
        ["evaluate", out / "run", "--device", "cpu"],
        ["evaluate", out / "second", "--device", "cpu"],
        ["report", out / "run"],
        [
            "predict",
            out / "run",
            "-i",
            series_folder,
            "-o",
            out / "masks",
            "--report",
            out / "a.json",
            "--device",
            "cpu",
        ],
        ["predict", out / "run", "-i", new, "-o", out / "masks", "--report", out / "b.json", "--device", "cpu"],
        ["compare", "--from", out / "run", out / "second", "--output", out / "compared"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSAM_ADAPT_HOME", str(home))
        patch.setattr("sys.stdout", printed)
        patch.setattr("sys.stderr", printed)
        for arguments in commands:
            with pytest.raises(SystemExit) as stopped:
                main([str(argument) for argument in arguments])
            assert stopped.value.code in (0, None), (arguments, printed.getvalue()[-2000:])
    return {"top": top, "source": source, "out": out, "home": home, "marks": marks, "printed": printed.getvalue()}


def test_the_search_finds_what_is_planted(done, tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(SECRET.encode()))
    (tmp_path / "page.html").write_text(
        "data:image/png;base64," + base64.b64encode(40 * b"." + SECRET.encode()).decode()
    )
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", gzip.compress(BIRTH.encode()))
    assert {path.name for path, _ in found_in([tmp_path], done["marks"])} == {"a.gz", "page.html", "model.pt"}
    assert len({mark for _, mark in found_in([done["source"]], done["marks"])}) == len(done["marks"])


def test_no_output_holds_what_a_header_says(done):
    files = [path for folder in (done["out"], done["home"]) for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {
        "model.pt",
        "state.pt",
        "report.html",
        "shown_cases.json",
        "metrics.csv",
        "a.json",
        "compare.md",
        "datalist.json",
    } <= names
    assert any("tfevents" in name for name in names)
    assert any(path.suffix == ".png" for path in files)
    assert found_in([done["out"], done["home"]], done["marks"] - {"Doe"}) == []


def test_nothing_printed_says_it_either(done):
    printed = done["printed"].replace(str(done["top"]), "")
    assert [mark for mark in done["marks"] if mark in printed] == []


def test_where_the_data_were_is_in_the_record_alone(done):
    """The record needs the folder, to score and to repeat; nothing that is handed on does."""
    holding = {path.relative_to(done["out"]) for path, _ in found_in([done["out"]], {"HOSPITAL_ARCHIVE_DOE"})}
    runs = [Path(run, name) for run in ("run", "second") for name in ("run.json",)]
    configs = [Path(run, "configs", name) for run in ("run", "second") for name in ("train.json", "evaluate.json")]
    assert holding == {*runs, *configs}


def test_the_report_of_a_prediction_tells_paths_if_asked(done, tmp_path, capsys):
    source, out = done["source"] / "images" / "case_1", done["out"]
    reported = {}
    for name, more in (("plain", []), ("kept", ["--keep-identifiers"])):
        arguments = ["predict", out / "run", "-i", source, "-o", tmp_path / name, "--report", tmp_path / f"{name}.json"]
        with pytest.raises(SystemExit):
            main([str(argument) for argument in (*arguments, "--device", "cpu", *more)])
        reported[name] = json.loads((tmp_path / f"{name}.json").read_text())["cases"]["case_1"]["input"]
    assert reported == {"plain": "case_1", "kept": str(source)}


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_a_dicom_output_is_the_same_patients(done, kind, tmp_path, capsys):
    """An archive files it with the images by these; it takes nothing else along."""
    source, out = done["source"] / "images" / "case_1", tmp_path / "masks"
    with pytest.raises(SystemExit) as stopped:
        main(
            ["predict", *map(str, (done["out"] / "run", "-i", source, "-o", out)), "--format", kind, "--device", "cpu"]
        )
    assert stopped.value.code in (0, None)
    (made,) = out.iterdir()
    dataset, image = pydicom.dcmread(made), pydicom.dcmread(sorted(source.glob(f"{FILE_PREFIX}*"))[0])
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
        assert dataset[name].value == image[name].value
    assert FILE_PREFIX not in made.name
    assert b"Hospital-0815" not in made.read_bytes()
    assert "SeriesDescription" in dataset
    assert SECRET not in dataset.SeriesDescription
    shutil.rmtree(out)


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_a_series_without_its_patient_can_be_answered_in_dicom(done, kind, tmp_path):
    """As anonymisers leave it: attributes that the standard wants, if only empty, are gone."""
    source, out = tmp_path / "anonymous", tmp_path / "masks"
    source.mkdir()
    for number, path in enumerate(sorted((done["source"] / "images" / "case_1").iterdir())):
        dataset = pydicom.dcmread(path)
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
            if name in dataset:
                del dataset[name]
        dataset.save_as(source / str(number))
    with pytest.raises(SystemExit) as stopped:
        main(
            ["predict", *map(str, (done["out"] / "run", "-i", source, "-o", out)), "--format", kind, "--device", "cpu"]
        )
    assert stopped.value.code in (0, None)
    (made,) = out.iterdir()
    assert pydicom.dcmread(made).PatientName == ""
