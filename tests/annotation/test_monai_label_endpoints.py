"""The endpoints of MONAI Label, asked as 3D Slicer's module asks them."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("fastapi", reason="the extra 'annotate' is not installed")
pytest.importorskip("python_multipart", reason="the extra 'annotate' is not installed")

from .serving import AFFINE, CLASSES, TOKEN, made_proposals, make_runs, served, write_scans
from .slicer_client import Refused, SlicerClient


@pytest.fixture(scope="module")
def proposals(tmp_path_factory):
    return made_proposals(*make_runs(tmp_path_factory.mktemp("runs")))


@pytest.fixture
def session(tmp_path):
    from medsam_adapt.annotation.opening import open_session

    return open_session(write_scans(tmp_path / "scans"), CLASSES, tmp_path / "output")


@pytest.fixture
def client(session, proposals, tmp_path):
    from medsam_adapt.annotation.rounds import Rounds

    (tmp_path / "viewer").mkdir()
    with served(session, proposals, Rounds(session, proposals)) as address:
        yield SlicerClient(f"{address}/monai/{TOKEN}", tmp_path / "viewer")


def label_of(path):
    """(X, Y, Z) numbers of a file as a viewer reads them, and its affine in RAS."""
    image = sitk.ReadImage(str(path))
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction, image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(), np.diag([-1, -1, 1, 1]) @ affine


def test_the_server_asks_for_no_password_and_lists_what_the_module_reads(client):
    assert client.json("GET", "/auth/") == {"enabled": False}
    info = client.json("GET", "/info/")
    assert "config" not in info  # the module takes this for an old server
    assert info["labels"] == list(CLASSES)
    kinds = {name: (model["type"], model["dimension"]) for name, model in info["models"].items()}
    expected = {"all": ("segmentation", 3), "boxes_slice": ("deepgrow", 2), "boxes_volume": ("deepgrow", 3)}
    assert kinds == expected
    assert list(info["strategies"]) == ["suggest", "random", "first"]
    assert list(info["trainers"]) == list(info["train_stats"])
    assert info["datastore"] == {"total": 3, "completed": 0, "label_tags": {}}


def test_a_wrong_token_and_a_wrong_path_are_refused(client):
    wrong = SlicerClient(client.address.geturl().replace(TOKEN, "wrong"), client.folder)
    for client_of, selector, status in ((wrong, "/info/", 401), (wrong, "/auth/", 401), (client, "/other/", 404)):
        with pytest.raises(Refused) as refused:
            client_of.json("GET", selector)
        assert refused.value.status == status
    bare = SlicerClient(f"http://{client.address.netloc}", client.folder)
    with pytest.raises(Refused) as refused:
        bare.json("GET", "/monai/info/")
    assert refused.value.status == 401


def test_the_next_scan_is_downloaded_as_it_is(client, session):
    sample = client.next_sample("first")
    assert sample["id"] == "scan_0"
    path = client.download("/datastore/image?image=scan_0", sample["name"])
    stored = session.scans["scan_0"].image.read_bytes()
    assert path.read_bytes() == stored
    assert sample["checksum"] == f"SHA256:{hashlib.sha256(stored).hexdigest()}"
    assert "path" not in sample  # a folder of this machine
    assert client.next_sample("random")["id"] in session.scans
    for scan in session.scans:
        session.set_labelled(scan, True)
    assert client.next_sample("suggest") == {}


def test_a_scan_is_segmented_as_predict_does_it(client, session, proposals):
    path, params = client.infer("all", "scan_1", {})
    found, affine = label_of(path)
    expected = proposals.automatic.predictor(session.scans["scan_1"].image)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    assert np.array_equal(found, expected)
    numbers = sorted({*np.unique(expected).tolist()} - {0})
    assert [params["label_names"][name] for name in params["label_names"]] == numbers
    assert path.name.endswith(".nrrd")
    assert session.status("scan_1") == "open"  # nothing is saved before the person does


def test_a_box_on_a_slice_gives_the_mask_of_that_slice(client, session, proposals):
    from medsam_adapt.annotation.drawing import Drawing
    from medsam_adapt.data.volumes.io import from_ras, read_volume, to_ras

    params = {"label": "spleen", "foreground": [], "background": [], "roi": [4, 12, 3, 15, 2, 2], "slice": 2}
    path, answer = client.infer("boxes_slice", "scan_0", params)
    found, affine = label_of(path)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    # The same box, by marking its corners in the file's own voxels and looking where they are in the slice.
    voxels, header = read_volume(session.scans["scan_0"].image)
    corners = np.zeros(header.shape, np.uint8)
    corners[4, 3, 2] = corners[12, 15, 2] = 1
    drawing = Drawing.of("scan_0", voxels, header)
    drawing.label[...] = to_ras(corners, AFFINE)[0]
    (index,) = np.flatnonzero(drawing.slices("axial").any(axis=(1, 2)))
    rows, columns = np.nonzero(drawing.slices("axial")[index])
    from medsam_adapt.data.prompts.simulated import SlicePrompt

    box = (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))
    mask = proposals.propose(drawing, "axial", int(index), SlicePrompt(box))
    drawing.label[...] = 0
    drawing.slices("axial")[index] = mask
    assert np.array_equal(found, from_ras(drawing.label, AFFINE))
    assert found[:, :, 2].any()
    assert not found[:, :, [0, 1, 3]].any()
    assert answer["label_names"] == {"spleen": 1}


def test_two_points_are_the_corners_of_a_box_for_weights_that_take_boxes(client):
    box = {"label": "liver", "foreground": [], "background": [], "roi": [4, 12, 3, 15, 1, 1], "slice": 1}
    points = {"label": "liver", "foreground": [[4, 3, 1], [12, 15, 1]], "background": [[0, 0, 1]], "slice": 1}
    by_box, by_points = (label_of(client.infer("boxes_slice", "scan_0", each)[0])[0] for each in (box, points))
    assert by_box.any()
    assert np.array_equal(by_box, by_points)


def test_a_box_in_space_is_followed_within_its_slices(client):
    params = {"label": "liver", "foreground": [], "background": [], "roi": [12, 4, 15, 3, 1, 3]}  # corners as they come
    found, _ = label_of(client.infer("boxes_volume", "scan_0", params)[0])
    drawn = found.any(axis=(0, 1))
    assert drawn[2]
    assert not drawn[0]
    alone, _ = label_of(client.infer("boxes_slice", "scan_0", {**params, "slice": 2})[0])
    assert np.array_equal(found[:, :, 2], alone[:, :, 2])


@pytest.mark.parametrize(
    ("model", "params", "words"),
    [
        ("boxes_slice", {"foreground": [], "background": [[1, 1, 1]]}, "no point in the structure, and no box"),
        ("boxes_slice", {"foreground": [[1, 1, 1]]}, "needs a box"),
        ("boxes_slice", {"foreground": [[1, 1, 99], [2, 2, 99]]}, "outside the volume"),
        ("boxes_slice", {"foreground": ["x"]}, "is not 3 numbers"),
        ("boxes_slice", {"roi": [1, 2, 3]}, "is not 6 numbers"),
        ("boxes_volume", {"roi": [90, 99, 1, 2, 1, 2]}, "lies outside the scan of 20 × 18 × 4 voxels"),
        ("boxes_volume", {"roi": [1e9, 99, 1, 2, float("nan"), 2]}, "is not 6 numbers"),
        ("nothing", {}, "There is no such model. There are all, boxes_slice"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_in_a_sentence(client, model, params, words):
    with pytest.raises(Refused) as refused:
        client.infer(model, "scan_0", params)
    assert refused.value.status in (404, 422)
    assert words in json.loads(refused.value.text)["detail"]


def test_a_label_is_saved_by_the_names_of_the_segments(client, session, tmp_path):
    label = np.zeros((20, 18, 4), np.uint8)
    label[2:5, 3:6, 1] = 1
    label[8:11, 3:6, 2] = 2
    nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "sent.nii.gz")
    names = [{"name": "Spleen", "idx": 1}, {"name": "liver", "idx": 2}, {"name": "unused", "idx": 3}]
    assert client.save_label("scan_2", tmp_path / "sent.nii.gz", names)["image"] == "scan_2"
    assert session.status("scan_2") == "labelled"
    saved = nib.load(session.files.label("scan_2"))
    np.testing.assert_allclose(saved.affine, AFFINE)
    expected = np.select([label == 1, label == 2], [3, 1])
    assert np.array_equal(np.asarray(saved.dataobj), expected)
    record = json.loads(session.files.provenance("scan_2").read_text())
    assert [author["kind"] for author in record["authors"]] == ["person"]
    info = client.json("GET", "/info/")["datastore"]
    assert info == {"total": 3, "completed": 1, "label_tags": {"final": 1}}
    final = client.json("GET", "/datastore/?output=all")["objects"]["scan_2"]["labels"]["final"]
    assert final["info"]["params"]["label_names"] == {"liver": 1, "spleen": 3}
    assert np.array_equal(nib.load(client.download_label("scan_2", "final")).get_fdata(), expected)
    assert client.json("GET", "/datastore/?output=train") == [{"image": "scan_2", "label": "scan_2"}]


def test_a_draft_is_what_the_module_shows_at_first(client, session, proposals):
    label = proposals.segment(session.drawing("scan_0"), session.classes)
    assert session.propose("scan_0", label, proposals.automatic.author)
    original = client.json("GET", "/datastore/?output=all")["objects"]["scan_0"]["labels"]["original"]
    names = original["info"]["params"]["label_names"]
    found = np.asarray(nib.load(client.download_label("scan_0", "original")).dataobj)
    assert np.array_equal(found, label)
    assert sorted(names.values()) == sorted({*np.unique(label).tolist()} - {0})  # the n-th name is the n-th number
    with pytest.raises(Refused, match="no such label"):
        client.download_label("scan_1", "original")


@pytest.mark.parametrize(
    ("number", "names", "words"),
    [
        (1, [{"name": "Splen"}], "no class 'Splen'. Did you mean 'spleen'?"),
        (2, [{"name": "liver"}], "no class of the number 2"),
        (9, None, "no class of the number 9. Its classes are liver, right kidney, spleen"),
    ],
)
def test_a_label_of_unknown_classes_is_refused_and_nothing_is_saved(client, session, tmp_path, number, names, words):
    label = np.zeros((20, 18, 4), np.uint8)
    label[2:5, 3:6, 1] = number
    nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "sent.nii.gz")
    with pytest.raises(Refused) as refused:
        client.save_label("scan_2", tmp_path / "sent.nii.gz", names)
    assert refused.value.status == 422
    assert words in json.loads(refused.value.text)["detail"]
    assert session.status("scan_2") == "open"


def test_a_label_of_another_scan_or_none_at_all_is_refused(client, session, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), tmp_path / "other.nii.gz")
    (tmp_path / "damaged.nii.gz").write_bytes(b"nothing")
    for name in ("other", "damaged"):
        with pytest.raises(Refused) as refused:
            client.save_label("scan_0", tmp_path / f"{name}.nii.gz", [{"name": "liver"}])
        assert refused.value.status == 422
        assert "/tmp" not in json.loads(refused.value.text)["detail"]
    assert session.status("scan_0") == "open"
    with pytest.raises(Refused, match="no such image"):
        client.save_label("../../etc/passwd", tmp_path / "other.nii.gz", [])


def test_a_volume_of_the_viewer_is_segmented_without_being_kept_on_disk(client, session, tmp_path):
    nib.save(nib.load(session.scans["scan_1"].image), tmp_path / "mine.nii.gz")
    before = {*(path for path in session.output.rglob("*"))}
    key = client.create_session(tmp_path / "mine.nii.gz")["session_id"]
    assert client.json("GET", f"/session/{key}")["name"] == key
    ours, _ = label_of(client.infer("all", "mine", {}, key)[0])
    theirs, _ = label_of(client.infer("all", "scan_1", {})[0])
    assert np.array_equal(ours, theirs)
    assert {*(path for path in session.output.rglob("*"))} == before
    client.json("DELETE", f"/session/{key}")
    with pytest.raises(Refused, match="no longer kept"):
        client.json("GET", f"/session/{key}")


def test_no_scan_is_added_to_the_folder(client, session, tmp_path):
    nib.save(nib.load(session.scans["scan_1"].image), tmp_path / "mine.nii.gz")
    with pytest.raises(Refused) as refused:
        client.upload_image("mine", tmp_path / "mine.nii.gz")
    assert refused.value.status == 403
    assert "Copy the file there" in refused.value.text


def test_there_is_no_training_before_one_was_started(client):
    for selector in ("/train/", "/train/?check_if_running=true"):
        with pytest.raises(Refused) as refused:
            client.json("GET", selector)
        assert refused.value.status == 404
    with pytest.raises(Refused) as refused:
        client.json("POST", "/train/medsam_adapt", {})
    assert refused.value.status == 422
    assert "no scan is labelled yet" in refused.value.text
