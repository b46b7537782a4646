"""Cases of several images: one is shown, a model sees those that it was trained on, and a label is of all of them."""

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient

from medsam_adapt.annotation.application import create_full_app
from medsam_adapt.annotation.drawing import Drawing
from medsam_adapt.annotation.opening import open_session
from medsam_adapt.annotation.proposals import Proposals, load_proposals
from medsam_adapt.annotation.proposing_models import check_images, run_model
from medsam_adapt.annotation.rounds import Rounds
from medsam_adapt.annotation.run_lengths import from_run_lengths
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.data.volumes.io import read_volume, to_ras
from tests.annotation.conftest import CLASSES, TOKEN, changes, painted
from tests.data import samples
from tests.data.dicom_files import save, series
from tests.made_runs import make_run

NAMES = ("T2", "ADC")
SHAPE = (24, 20, 6)
BOX = (3.0, 4.0, 15.0, 14.0)
WINDOW = {"kind": "window", "low": 0, "high": 200, "modality": "other"}
EACH = {"kind": "channels", "channels": [WINDOW, {**WINDOW, "high": 400}]}


def voxels(seed):
    """Two images that differ: a structure that only the second one shows well."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(100, 20, SHAPE), rng.normal(200, 40, SHAPE)
    first[8:18, 6:14] += 20
    second[8:18, 6:14] += 120
    return {"T2": first.astype(np.float32), "ADC": second.astype(np.float32)}


@pytest.fixture
def scans(tmp_path):
    """A folder for each case, which are no data set."""
    for number in range(2):
        for name, values in voxels(number).items():
            samples.volume(tmp_path / f"scans/case_{number}/{name}.nii.gz", values)
    return tmp_path / "scans"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs with boxes on both images, without prompts on both in another order, and with boxes on one image."""
    folder = tmp_path_factory.mktemp("runs")
    turned = {"kind": "channels", "channels": EACH["channels"][::-1]}
    return {
        "boxes": make_run(folder / "boxes", "box", names=CLASSES, images=[*NAMES], policy=EACH),
        "all": make_run(folder / "all", names=CLASSES, images=["ADC", "T2"], policy=turned),
        "one": make_run(folder / "one", "box", names=CLASSES, policy=WINDOW),
    }


@pytest.fixture
def session(scans):
    return open_session(scans, CLASSES, images=NAMES)


@pytest.fixture
def proposals(runs):
    found = Proposals(run_model(runs["boxes"], "cpu"), run_model(runs["all"], "cpu"))
    yield found
    found.close()


@pytest.fixture
def client(session, proposals):
    app = create_full_app(session, TOKEN, proposals, Rounds(session, proposals, device="cpu"))
    with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def test_each_image_is_described_and_sent(client, scans):
    facts = client.get("/api/scans/case_1").json()
    assert [each["name"] for each in facts["images"]] == [*NAMES]
    for number, (name, image) in enumerate(zip(NAMES, facts["images"], strict=True)):
        content = client.get("/api/scans/case_1/image", params={"number": number}).content
        sent = np.frombuffer(content, "<i2").reshape(facts["shape"], order="F")
        stored, header = read_volume(scans / f"case_1/{name}.nii.gz")
        expected, _ = to_ras(stored, header.affine)
        np.testing.assert_allclose(sent * image["slope"] + image["intercept"], expected, atol=image["slope"])
        np.testing.assert_allclose(image["window"], np.percentile(stored, [0.5, 99.5]), atol=1e-3)
    assert client.get("/api/scans/case_1/image", params={"number": 2}).status_code == 422
    body = {"axis": "axial", "index": 2, "box": BOX, "image": 2}
    for path in ("look", "proposal"):
        wanted = body if path == "proposal" else {key: body[key] for key in ("axis", "index", "image")}
        reply = client.post(f"/api/scans/case_1/{path}", json=wanted)
        assert (reply.status_code, "none of the number 2" in reply.text) == (422, True)


def test_a_run_on_several_images_sees_them_whichever_is_shown(client, session, proposals):
    masks = []
    for shown in (0, 1):
        reply = client.post(
            "/api/scans/case_0/proposal", json={"axis": "axial", "index": 2, "image": shown, "box": BOX}
        )
        masks.append(from_run_lengths(reply.json()["mask"], (SHAPE[1], SHAPE[0]), [0, 1]))
    np.testing.assert_array_equal(*masks)
    drawing = session.drawing("case_0")
    assert proposals.has_embedding(drawing, "axial", 2, image=1)
    other = Drawing.of("x", np.stack([voxels(0)["T2"]] * 2, axis=-1), drawing.header, NAMES)
    changed = proposals.propose(other, "axial", 2, SlicePrompt(box=BOX))
    assert (changed != masks[0]).any()  # it looks at the second image


def test_a_model_of_one_image_sees_the_one_that_is_shown(session, runs):
    proposals = load_proposals(str(runs["one"]), CLASSES, "cpu")
    try:
        drawing = session.drawing("case_0")
        for shown, name in enumerate(NAMES):
            alone = Drawing.of(f"alone {name}", voxels(0)[name], drawing.header)
            expected = proposals.propose(alone, "axial", 3, SlicePrompt(box=BOX))
            found = proposals.propose(drawing, "axial", 3, SlicePrompt(box=BOX), shown)
            np.testing.assert_array_equal(found, expected)
            assert proposals.has_embedding(drawing, "axial", 3, shown)
    finally:
        proposals.close()


def test_images_are_put_in_the_order_of_the_run_by_their_names(client, session, proposals):
    assert client.post("/api/scans/case_0/segmentation", json={}).status_code == 200
    both = voxels(0)
    predictor = proposals.automatic.predictor
    drawing = session.drawing("case_0")
    expected = predictor.segment(np.stack([both["ADC"], both["T2"]], axis=-1), drawing.header.affine).voxels
    np.testing.assert_array_equal(drawing.native(drawing.label), expected)
    assert expected.any()


def test_other_images_than_the_model_takes_are_refused_in_a_sentence(session, proposals, runs, tmp_path):
    alone = Drawing.of("alone", voxels(0)["T2"], session.drawing("case_0").header)
    with pytest.raises(InputError, match="it has one image, and the model takes T2, ADC together"):
        proposals.propose(alone, "axial", 2, SlicePrompt(box=BOX))
    plain = make_run(tmp_path / "plain", names=CLASSES)
    with pytest.raises(InputError, match="takes one image of a case, and these cases have T2, ADC"):
        check_images(run_model(plain, "cpu"), session.images)
    samples.nnunet(tmp_path / "data", channels=("T1", "T2"))
    with pytest.raises(InputError, match="trained on T2, ADC together"):
        open_session(tmp_path / "data", CLASSES, images=NAMES)


@pytest.mark.parametrize("layout", ["nnunet", "4D"])
def test_a_finished_label_belongs_to_all_images_of_its_case(tmp_path, layout):
    if layout == "nnunet":
        samples.nnunet(tmp_path / "data", channels=("T1", "T2"))
        folder, scan = tmp_path / "data" / "imagesTr", "organ_001"
        names = ("T1", "T2")
    else:
        both = voxels(0)
        samples.volume(tmp_path / "scans/case.nii.gz", np.stack([both[name] for name in NAMES], axis=-1))
        folder, scan, names = tmp_path / "scans", "case", NAMES
    session = open_session(folder, CLASSES, tmp_path / "out", images=names if layout == "4D" else ())
    assert session.images == names
    with session.changing(scan) as drawing:
        shape = drawing.slices("axial").shape[1:]
        drawing.paint("axial", {1: painted(shape, 2)}, session.person)
    session.set_labelled(scan, True)
    found = find_cases(session.training_folder(), "folder")
    assert (found.images, [case.id for case in found.cases]) == (tuple(sorted(names)), [scan])
    stored, _ = read_volume(found.cases[0].image)
    expected, _ = read_volume(session.scans[scan].image)
    np.testing.assert_array_equal(stored, expected[..., [names.index(name) for name in found.images]])
    assert np.count_nonzero(np.asarray(nib.load(found.cases[0].label).dataobj) == 2) == 72
    session.set_labelled(scan, False)
    assert list((tmp_path / "out/images").iterdir()) == []


def test_scans_are_ranked_by_the_images_that_the_run_takes(client, session):
    client.patch("/api/scans/case_0/label", json=changes(painted((SHAPE[1], SHAPE[0])), index=2))
    rounds = client.app.state.rounds
    rounds.rank()
    rounds._thread.join()
    assert rounds.progress.message == ""
    assert {each.name for each in rounds.order} == {"case_0", "case_1"}


def test_a_viewer_is_sent_the_first_image(client, scans):
    sent = client.get(f"/monai/{TOKEN}/datastore/image", params={"image": "case_0"})
    assert sent.status_code == 200, sent.text
    assert sent.content == (scans / "case_0/T2.nii.gz").read_bytes()
    info = client.get(f"/monai/{TOKEN}/datastore/image/info", params={"image": "case_0"}).json()
    assert info["name"] == "case_0_T2.nii.gz"


def test_series_of_a_study_get_a_dicom_segmentation_that_refers_to_the_first(tmp_path):
    pytest.importorskip("highdicom", reason="highdicom, which writes DICOM segmentations, is not installed")
    import pydicom

    first = series(modality="MR")
    for name, slices in {"T2": first, "ADC": series(modality="MR")}.items():
        save(tmp_path / "scans/patient" / name, slices)
    session = open_session(tmp_path / "scans", CLASSES, images=NAMES)
    (scan,) = session.scans
    with session.changing(scan) as drawing:
        values = painted(drawing.slices("axial").shape[1:], 2, slice(1, 3), slice(1, 3))
        drawing.paint("axial", {2: values}, session.person)
    session.set_labelled(scan, True)
    assert session.notes == []
    written = pydicom.dcmread(session.files.dicom_seg(scan))
    referenced = written.ReferencedSeriesSequence[0].SeriesInstanceUID
    assert referenced == first[0].SeriesInstanceUID
    assert written.pixel_array.sum() == 4
    cases = find_cases(session.training_folder(), "folder")
    assert cases.images == ("ADC", "T2")
    stored, _ = read_volume(cases.cases[0].image)
    np.testing.assert_array_equal(stored[..., 1], drawing.native(drawing.grey(0)))
