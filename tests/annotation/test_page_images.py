"""The page in a real browser on cases of two images: which is shown, and that proposals follow."""

import numpy as np
import pytest

from medsam_adapt.annotation.opening import open_session
from medsam_adapt.annotation.proposals import Proposals
from medsam_adapt.annotation.proposing_models import run_model
from medsam_adapt.annotation.rounds import Rounds
from tests.annotation.browsing import drag, grey_at, label_in, press, wait
from tests.annotation.conftest import CLASSES
from tests.annotation.serving import TOKEN, served
from tests.annotation.test_several_images import EACH, NAMES, SHAPE, voxels
from tests.data import samples
from tests.made_runs import make_run
from tests.report.browser import chromium, skip_without_chromium

skip_without_chromium()


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    scans = tmp_path_factory.mktemp("several") / "scans"
    for number in range(2):
        for name, values in voxels(number).items():
            samples.volume(scans / f"case_{number}/{name}.nii.gz", values)
    return open_session(scans, CLASSES, images=NAMES)


@pytest.fixture(scope="module")
def browser(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    run = make_run(folder / "boxes", "box", names=CLASSES, images=[*NAMES], policy=EACH)
    proposals = Proposals(run_model(run, "cpu"))
    session.start()
    with served(session, proposals, Rounds(session, proposals)) as address, chromium(folder / "profile") as driver:
        driver.get(f"{address}/?token={TOKEN}")
        wait(driver)
        yield driver
    proposals.close()
    session.close()


def shown_level(browser, session, place):
    """The grey level on the page under a voxel, and the one that the shown image and its window give."""
    x, y, z = place
    browser.execute_script("app.display.moveTo(arguments[0])", [x, y, z])
    number, (low, high) = browser.execute_script("return [app.scan.shown, app.display.window]")
    grey = session.drawing("case_0").grey(number)[x, y, z]
    level = round(float(np.clip((grey - low) / (high - low), 0, 1)) * 255)
    return grey_at(browser, 0, SHAPE[0] - 1 - x, SHAPE[1] - 1 - y), [level] * 3


def test_the_list_and_the_key_change_what_is_shown(browser, session):
    from selenium.webdriver.support.ui import Select

    wait(browser, "return app.scan.id === 'case_0'")
    chosen = Select(browser.find_element("css selector", "#image"))
    assert [option.text for option in chosen.options] == [*NAMES]
    for place in ((5, 6, 2), (12, 10, 4)):
        np.testing.assert_allclose(*shown_level(browser, session, place), atol=1)
    windows = [browser.execute_script("return app.display.window")]
    chosen.select_by_visible_text("ADC")
    wait(browser, "return app.scan.shown === 1")
    for place in ((5, 6, 2), (12, 10, 4)):
        np.testing.assert_allclose(*shown_level(browser, session, place), atol=1)
    windows.append(browser.execute_script("return app.display.window"))
    assert windows[0] != windows[1]
    browser.execute_script("app.display.setWindow(50, 300)")
    press(browser, "i")  # the list lost the focus when it was used
    wait(browser, "return app.scan.shown === 0")
    assert browser.execute_script("return app.display.window") == windows[0]
    press(browser, "i")
    wait(browser, "return app.scan.shown === 1")
    assert browser.execute_script("return app.display.window") == [50, 300]


def test_a_box_gets_a_proposal_whichever_image_is_shown(browser, session):
    press(browser, "b")
    browser.execute_script("app.display.moveTo([12, 10, 3])")
    drag(browser, (4, 4), (17, 15))
    wait(browser, "return app.scan.version === 1 && app.scan.isSaved")
    drawn = label_in(browser)
    assert drawn[:, :, 3].any()
    press(browser, "n")  # the next case shows the same image
    wait(browser, "return app.scan.id === 'case_1' && app.scan.shown === 1")
    assert browser.find_element("css selector", "#image").get_property("value") == "1"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    np.testing.assert_array_equal(session.drawing("case_0").label, drawn)
