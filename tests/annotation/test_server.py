"""What the page asks of the server: volumes, labels, changes, proposals."""

import json

import numpy as np

from medsam_adapt.annotation.run_lengths import from_run_lengths
from medsam_adapt.data.volumes.io import read_volume, to_ras
from tests.annotation.conftest import TOKEN, changes, painted

SCAN = "/api/scans/phantom_000"
SHAPE = (36, 40)  # of an axial slice
BOX = {"box": [6, 4, 24, 21]}


def lines(response):
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def label_of(client):
    response = client.get(f"{SCAN}/label")
    return np.frombuffer(response.content, np.uint8).reshape((40, 36, 12), order="F")


def test_the_page_is_one_small_file_that_may_load_nothing(client):
    page = client.get("/", params={"token": TOKEN})
    assert page.headers["content-type"].startswith("text/html")
    assert len(page.content) < 1_000_000
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in page.text.replace("<!doctype html>", "")


def test_the_session_is_described(client):
    found = client.get("/api/session").json()
    assert [each["name"] for each in found["classes"]] == ["liver", "spleen"]
    assert [each["id"] for each in found["scans"]] == ["phantom_000", "phantom_001", "phantom_002"]
    assert found["model"] == {"name": "boxes", "axes": ["axial"], "boxes": True, "points": False, "automatic": None}


def test_the_image_has_the_grey_values_of_the_file(client, scans):
    facts = client.get(SCAN).json()
    sent = np.frombuffer(client.get(f"{SCAN}/image").content, "<i2").reshape(facts["shape"], order="F")
    voxels, header = read_volume(scans / "phantom_000.nii.gz")
    expected, _ = to_ras(voxels, header.affine)
    (image,) = facts["images"]
    np.testing.assert_allclose(sent * image["slope"] + image["intercept"], expected, atol=image["slope"])
    assert (image["name"], image["window"]) == ("", [-160, 240])


def test_a_change_arrives_and_is_undone_and_made_again(client):
    reply = client.patch(f"{SCAN}/label", json=changes(painted(SHAPE, 2), index=3)).json()
    assert reply == {"version": 1, "status": "proposed"}
    assert label_of(client).sum() == 2 * 72
    assert label_of(client)[:, :, 3].sum() == 2 * 72
    undone = client.post(f"{SCAN}/undo").json()
    assert [(each["axis"], each["index"]) for each in undone["slices"]] == [("axial", 3)]
    assert not label_of(client).any()
    client.post(f"{SCAN}/redo")
    assert label_of(client).sum() == 2 * 72


def test_a_change_of_an_older_label_is_refused(client):
    client.patch(f"{SCAN}/label", json=changes(painted(SHAPE)))
    late = client.patch(f"{SCAN}/label", json=changes(painted(SHAPE, 2), version=0))
    assert late.status_code == 409
    assert label_of(client).max() == 1


def test_what_does_not_fit_the_scan_is_refused_and_changes_nothing(client):
    bad = [
        changes(painted(SHAPE, 3)),  # no such class
        changes(painted((36, 41))),
        changes(painted(SHAPE), index=12),
        changes(painted(SHAPE), prompts=[{"label": 3, "index": 3, **BOX}]),
        changes(painted(SHAPE), prompts=[{"label": 1, "index": 3, "points": [[99, 0, True]]}]),
        {**changes(painted(SHAPE)), "author": "nobody"},
        {**changes(painted(SHAPE)), "slices": []},
    ]
    for body in bad:
        assert client.patch(f"{SCAN}/label", json=body).status_code == 422, body
    assert client.get(SCAN).json()["version"] == 0
    assert not label_of(client).any()


def test_a_box_gives_the_mask_that_predict_gives(client, proposals, scans):
    from medsam_adapt.data.prompts.file import Prompt

    reply = client.post(f"{SCAN}/proposal", json={"axis": "axial", "index": 5, **BOX})
    assert reply.status_code == 200, reply.text
    mask = from_run_lengths(reply.json()["mask"], SHAPE, [0, 1])
    voxels, header = read_volume(scans / "phantom_000.nii.gz")
    corners = [[39 - x, 35 - y, 5] for x, y in ([6, 4], [24, 21])]  # slices are seen from the front and the right
    affine = to_ras(voxels, header.affine)[1]
    corners_mm = tuple(tuple((affine @ [*corner, 1])[:3].tolist()) for corner in corners)
    prompt = Prompt(label="liver", units="mm-ras", box=corners_mm)
    expected = proposals.prompted.predictor(voxels, header.affine, prompts=[prompt])
    turned = to_ras(expected, header.affine)[0][:, :, 5]
    np.testing.assert_array_equal(mask, turned[::-1, ::-1].T > 0)


def test_a_point_corrects_the_box_of_a_run_that_takes_boxes_only(client):
    def mask(points):
        reply = client.post(f"{SCAN}/proposal", json={"axis": "axial", "index": 5, **BOX, "points": points})
        return from_run_lengths(reply.json()["mask"], SHAPE, [0, 1])

    plain = mask([])
    is_inside = bool(plain[12, 15])
    corrected = mask([[15, 12, not is_inside]])
    assert bool(corrected[12, 15]) != is_inside
    assert (corrected != plain).sum() < plain.size / 4


def test_a_prompt_that_the_run_does_not_take_is_refused_in_a_sentence(client):
    cases = {
        "this run was trained on axial slices": {"axis": "coronal", "index": 5, **BOX},
        "needs a box": {"axis": "axial", "index": 5, "points": [[8, 8, True]]},
        "The scan has 12 axial slices": {"axis": "axial", "index": 12, **BOX},
    }
    for sentence, body in cases.items():
        reply = client.post(f"{SCAN}/proposal", json=body)
        assert reply.status_code == 422
        assert sentence in reply.json()["detail"]


def test_a_structure_is_propagated_from_the_slices_with_a_box(client, monkeypatch):
    from medsam_adapt.annotation import proposals as module

    def filled(self, slices, index, prompt):
        x0, y0, x1, y1 = map(round, prompt.box)
        return painted(SHAPE, 1, slice(y0, y1 + 1), slice(x0, x1 + 1)) > 0

    monkeypatch.setattr(module.Proposals, "_draw", filled)
    for step, (index, columns) in enumerate({2: slice(6, 15), 6: slice(10, 19)}.items()):
        box = [columns.start, 4, columns.stop - 1, 11]
        prompts = [{"label": 1, "index": index, "box": box}]
        body = changes(painted(SHAPE, columns=columns), index, version=step, author="model", prompts=prompts)
        assert client.patch(f"{SCAN}/label", json=body).status_code == 200
    found = lines(client.post(f"{SCAN}/propagation", json={"axis": "axial", "label": 1, "last": 8}))
    assert sorted(each["index"] for each in found) == [0, 1, 3, 4, 5, 7, 8]
    fourth = next(each for each in found if each["index"] == 4)
    np.testing.assert_array_equal(
        from_run_lengths(fourth["mask"], SHAPE, [0, 1]), painted(SHAPE, 1, columns=slice(8, 17))
    )
    filled_in = lines(client.post(f"{SCAN}/fill", json={"axis": "axial", "label": 1}))
    assert [each["index"] for each in filled_in] == [3, 4, 5]


def test_nothing_to_propagate_from_is_reported(client):
    reply = client.post(f"{SCAN}/propagation", json={"axis": "axial", "label": 2})
    assert reply.status_code == 422
    assert "Draw a box on a slice first" in reply.json()["detail"]


def test_the_slices_beside_a_proposal_are_embedded_in_the_background(client, proposals, session):
    import time

    client.post(f"{SCAN}/look", json={"axis": "axial", "index": 5})
    drawing = session.drawing("phantom_000")
    deadline = time.monotonic() + 60
    wanted = (3, 4, 5, 6, 7)
    while not all(proposals.has_embedding(drawing, "axial", index) for index in wanted):
        assert time.monotonic() < deadline, "the slices were not embedded"
        time.sleep(0.02)


def test_a_finished_scan_is_a_labelled_one(client, session):
    client.patch(f"{SCAN}/label", json=changes(painted(SHAPE)))
    assert client.put(f"{SCAN}/status", json={"labelled": True}).json()["status"] == "labelled"
    assert session.files.label("phantom_000").is_file()
    assert client.get("/api/session").json()["scans"][0]["status"] == "labelled"


def test_a_run_without_prompts_labels_whole_scans(session, tmp_path):
    from fastapi.testclient import TestClient

    from medsam_adapt.annotation.proposals import load_proposals
    from medsam_adapt.annotation.server import create_app
    from tests.made_runs import make_run

    run = make_run(tmp_path / "whole", prompt="none", names=["spleen", "liver"])
    found = load_proposals(str(run), ["liver"], "cpu")
    client = TestClient(create_app(session, TOKEN, found), headers={"Authorization": f"Bearer {TOKEN}"})
    assert client.post(f"{SCAN}/segmentation").json() == {"status": "proposed"}
    drawing = session.drawing("phantom_000")
    predicted = to_ras(found.automatic.predictor(session.scans["phantom_000"].image), drawing.header.affine)[0]
    np.testing.assert_array_equal(drawing.label == 1, predicted == 2)  # classes are matched by name
    client.patch(f"{SCAN}/label", json=changes(painted(SHAPE), version=drawing.version))
    drawing.edited = {1: drawing.edited[1]}  # as if no spleen had been on this slice
    asked = client.post(f"{SCAN}/segmentation", json={})
    assert (asked.status_code, asked.json()["detail"]) == (409, "You have worked on this scan: liver.")
    kept = drawing.label == 1
    assert client.post(f"{SCAN}/segmentation", json={"worked_on": "keep"}).status_code == 200
    np.testing.assert_array_equal(drawing.label == 1, kept)
    assert client.post(f"{SCAN}/segmentation", json={"worked_on": "replace"}).status_code == 200
    np.testing.assert_array_equal(drawing.label == 1, predicted == 2)
    drawing.accepted = {*session.classes}
    nothing = client.post(f"{SCAN}/segmentation", json={"worked_on": "keep"})
    assert (nothing.status_code, "none is left" in nothing.json()["detail"]) == (422, True)
    client.put(f"{SCAN}/status", json={"labelled": True})
    refused = client.post(f"{SCAN}/segmentation", json={"worked_on": "replace"})
    assert (refused.status_code, "is finished" in refused.json()["detail"]) == (422, True)
    found.close()
