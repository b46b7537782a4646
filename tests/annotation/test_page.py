"""The page in a real browser, on the real CT: box, proposal, propagation, eraser, undo, and the same after reload."""

import threading

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.annotation.access import addresses_of
from medsam_adapt.annotation.application import create_full_app
from medsam_adapt.annotation.opening import open_session
from medsam_adapt.annotation.proposals import load_proposals
from medsam_adapt.annotation.rounds import Rounds
from medsam_adapt.cli.annotate import listen
from medsam_adapt.data.volumes.io import from_ras, to_ras
from tests.annotation.browsing import drag, grey_at, label_in, press, wait
from tests.annotation.conftest import TOKEN
from tests.report.browser import chromium, skip_without_chromium

skip_without_chromium()


@pytest.fixture(scope="module")
def ct(real_data):
    return real_data / "ct_abdomen" / "image.nii.gz"


@pytest.fixture(scope="module")
def session(ct, tmp_path_factory):
    scans = tmp_path_factory.mktemp("ct") / "scans"
    scans.mkdir()
    (scans / "ct.nii.gz").symlink_to(ct)
    return open_session(scans, ["liver", "spleen"])


@pytest.fixture(scope="module")
def address(session):
    """A server in a thread."""
    import uvicorn

    proposals = load_proposals("sam_nano", ["liver"], "cpu")
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app = create_full_app(session, TOKEN, proposals, Rounds(session, proposals), *addresses_of("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    session.start()
    thread.start()
    yield f"http://127.0.0.1:{port}/?token={TOKEN}"
    server.should_exit = True
    thread.join()
    proposals.close()
    session.close()


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as driver:
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get(address)
        wait(driver)
        yield driver


def test_a_label_is_drawn_corrected_saved_and_found_again(browser, session, address, ct):
    from selenium.webdriver.common.keys import Keys

    browser.execute_script("app.display.moveTo([85, 55, 75])")
    drag(browser, (15, 25), (62, 75))  # the liver
    wait(browser, "return app.scan.version === 1 && app.scan.isSaved")
    proposed = label_in(browser)
    assert np.flatnonzero(proposed.any(axis=(0, 1))).tolist() == [75]
    assert np.count_nonzero(proposed) > 100

    press(browser, ".")  # propagate up
    wait(browser, "return app.scan.version > 1 && app.scan.isSaved && !app.proposals.running")
    propagated = label_in(browser)
    assert propagated[:, :, 76].any()
    assert not propagated[:, :, 74].any()
    np.testing.assert_array_equal(propagated[:, :, 75], proposed[:, :, 75])

    press(browser, "e")
    columns, rows = np.argwhere(propagated[::-1, ::-1, 75]).mean(axis=0)
    drag(browser, (columns - 5, rows), (columns, rows), (columns + 5, rows))
    wait(browser)
    erased = label_in(browser)
    assert 0 < np.count_nonzero(erased) < np.count_nonzero(propagated)
    assert not erased[::-1, ::-1, 75][round(columns), round(rows)]

    press(browser, Keys.CONTROL, "z")
    wait(browser, f"return app.scan.isSaved && app.scan.label.reduce((a, b) => a + b, 0) === {propagated.sum()}")
    np.testing.assert_array_equal(label_in(browser), propagated)
    press(browser, Keys.CONTROL, "y")
    wait(browser, f"return app.scan.isSaved && app.scan.label.reduce((a, b) => a + b, 0) === {erased.sum()}")

    press(browser, Keys.CONTROL, "s")
    press(browser, Keys.CONTROL, Keys.ENTER)
    wait(browser, "return app.scan.status === 'labelled'")
    written, image = nib.load(session.files.label("ct")), nib.load(ct)
    np.testing.assert_array_equal(written.affine, image.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), from_ras(erased, image.affine))

    browser.get(address)
    wait(browser)
    np.testing.assert_array_equal(label_in(browser), erased)
    kinds = {each.kind for each in session.drawing("ct").authors}
    assert kinds == {"model", "person"}


def test_brush_fill_hide_and_help_by_keyboard(browser, session):
    from selenium.webdriver.common.keys import Keys

    browser.execute_script("app.display.moveTo([30, 40, 20])")
    for key in ("2", "d", Keys.ENTER, Keys.PAGE_UP, Keys.PAGE_UP, Keys.PAGE_UP, Keys.ENTER):
        press(browser, key)
    wait(browser)
    press(browser, "f")
    wait(browser, "return app.scan.isSaved && /slices drawn/.test(byId('message').textContent)")
    label = label_in(browser)
    assert np.flatnonzero((label == 2).any(axis=(0, 1))).tolist() == [20, 21, 22, 23]
    assert label[30, 40, 21] == 2
    drawing = session.drawing("ct")
    author = drawing.authors[drawing.drawn_by[30, 40, 21] - 1]
    assert author.name == "interpolation between slices"
    shown = "return app.display.views[0].canvas.toDataURL()"
    before = browser.execute_script(shown)
    press(browser, "h")
    assert browser.execute_script(shown) != before
    press(browser, "h")
    assert browser.execute_script(shown) == before
    press(browser, "?")
    assert browser.execute_script("return byId('help').open")
    press(browser, Keys.ESCAPE)
    assert not browser.execute_script("return byId('help').open")


def test_what_the_page_shows_is_the_scan(browser, ct):
    """A voxel under the crosshair has the grey level that the window gives it."""
    image = nib.load(ct)
    volume, _ = to_ras(np.asarray(image.dataobj), image.affine)
    x, y, z = 60, 50, 60
    browser.execute_script("app.display.moveTo(arguments[0])", [x, y, z])
    low, high = browser.execute_script("return app.display.window")
    level = round(min(max((volume[x, y, z] - low) / (high - low), 0), 1) * 255)
    for view, column, row in ((0, 121 - x, 100 - y), (1, 121 - x, 111 - z), (2, 100 - y, 111 - z)):
        pixel = grey_at(browser, view, column, row)
        assert np.abs(np.array(pixel) - level).max() <= 1


def test_the_page_asks_no_other_host_and_logs_no_error(browser, address):
    import json

    host = address.split("/?")[0]
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in requests if each["method"] == "Network.requestWillBeSent"]
    assert urls
    assert all(url.startswith((host, "data:", "about:")) for url in urls)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
