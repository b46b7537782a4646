"""The page in a real browser on small scans: rounds of training, questions, strokes, and a browser that crashes."""

import os
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'annotate' is not installed")

from tests.made_runs import make_run
from tests.report.browser import chromium, skip_without_chromium

from .serving import CLASSES, TOKEN, made_proposals, served, write_scans
from .test_rounds import SMALL, label

skip_without_chromium()

# What the panel shows, as it changes; collected in the page, since a short stage may pass between two looks from here.
COLLECT = """
window.stages = [];
const note = () => {
  const text = document.getElementById('round-status').textContent;
  if (text && stages.at(-1) !== text) stages.push(text);
};
const seen = {childList: true, subtree: true, characterData: true};
new MutationObserver(note).observe(document.getElementById('round'), seen);
"""


@pytest.fixture
def server(tmp_path):
    """A server of three scans, two of which are labelled: its address, session and rounds."""
    from medsam_adapt.annotation.opening import open_session
    from medsam_adapt.annotation.rounds import Rounds

    boxes = make_run(tmp_path / "boxes", "box", names=CLASSES)
    session = open_session(write_scans(tmp_path / "scans"), CLASSES, tmp_path / "output")
    for scan in ("scan_0", "scan_2"):
        label(session, scan)
    rounds = Rounds(session, made_proposals(boxes), device="cpu", options=SMALL)
    session.start()
    with served(session, rounds.proposals, rounds) as address:
        yield address, session, rounds
    rounds.stop()
    rounds.proposals.close()
    session.close()


@contextmanager
def shown(address, profile):
    """A browser with the page, which shows the first scan that is not finished."""
    with chromium(profile) as driver:
        driver.get(f"{address}/?token={TOKEN}")
        wait(driver, "return typeof app !== 'undefined' && app?.scan && !byId('round').hidden")
        assert driver.execute_script("return app.scan.id") == "scan_1"
        yield driver


@pytest.fixture
def page(server, tmp_path):
    with shown(server[0], tmp_path / "profile") as driver:
        yield driver, *server[1:]


def wait(driver, expression, seconds=900):
    deadline = time.monotonic() + seconds
    while not driver.execute_script(expression):
        assert time.monotonic() < deadline, driver.execute_script("return document.body.innerText")
        time.sleep(0.3)


def test_retrain_trains_in_the_background_and_proposes(page):
    driver, session, rounds = page
    status = "return document.querySelector('[data-scan=\"{}\"] small').textContent"
    assert driver.execute_script("return byId('segment').hidden")
    driver.execute_script(COLLECT)
    driver.find_element("id", "minutes").clear()  # as many epochs as the bundle, here the options, has
    driver.find_element("id", "retrain").click()
    wait(driver, "return !byId('round-progress').hidden && byId('retrain').disabled")
    assert driver.find_element("id", "stop-round").is_displayed()
    # Drawing goes on meanwhile.
    driver.execute_script("app.moveTo([9, 9, 1]); app.setTool('brush'); app.useTool(true)")
    wait(driver, "return app.scan.isSaved && app.scan.version === 1")
    driver.execute_script("return app.goBack('undo')")
    wait(driver, "return byId('round-progress').hidden")
    stages = driver.execute_script("return stages")
    assert stages[0].startswith("Training on 2 scans")
    assert stages[-1] == "round_01 is trained and proposes.", stages
    assert rounds.progress.status == "done"
    wait(driver, "return !byId('segment').hidden")  # the new run labels whole scans
    expected = rounds.proposals.automatic.predictor(session.scans["scan_1"].image)
    drawing = session.drawing("scan_1")
    assert np.array_equal(drawing.native(drawing.label), expected)
    # The page shows what the run proposed for the scan that is open.
    np.testing.assert_array_equal(label_in(driver), drawing.label)
    assert driver.execute_script(status.format("scan_1")) == "proposed"
    assert driver.execute_script(status.format("scan_0")) == "labelled"
    suggested = driver.execute_script(
        "return [...document.querySelectorAll('#suggested button')].map((e) => e.textContent)"
    )
    assert suggested == ["scan_1"]
    assert [each for each in driver.get_log("browser") if each["level"] == "SEVERE"] == []


def test_whole_scan_asks_before_it_replaces_a_persons_work(page, tmp_path):
    from medsam_adapt.annotation.proposals import run_model

    driver, session, rounds = page
    rounds.proposals.automatic = run_model(make_run(tmp_path / "whole", names=CLASSES), "cpu")
    driver.refresh()
    wait(driver, "return typeof app !== 'undefined' && app?.scan && !byId('segment').hidden")
    driver.execute_script("app.moveTo([9, 9, 1]); app.setTool('brush'); app.useTool(true)")
    wait(driver, "return app.scan.isSaved && app.scan.version === 1")
    before = label_in(driver)
    assert before.any()
    driver.find_element("id", "segment").click()
    wait(driver, "return byId('ask').open")
    assert "You have worked on this scan: liver." in driver.find_element("id", "ask-text").text
    driver.find_element("css selector", "#ask button[value='']").click()
    np.testing.assert_array_equal(label_in(driver), before)
    driver.find_element("id", "segment").click()
    wait(driver, "return byId('ask').open")
    driver.find_element("css selector", "#ask button[value='keep']").click()
    wait(driver, "return /has a proposal/.test(byId('message').textContent)")
    after = label_in(driver)
    np.testing.assert_array_equal(after == 1, before == 1)
    np.testing.assert_array_equal(after, session.drawing("scan_1").label)


def label_in(driver):
    runs, shape = driver.execute_script("return [toRuns(app.scan.label), app.scan.shape]")
    pairs = np.array(runs).reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.uint8).reshape(shape, order="F")


def press(driver, *places):
    """Press the pointer on the axial slice at the first place (column, row), and move it to the others."""
    from selenium.webdriver import ActionChains

    points = [driver.execute_script("return app.views[0].onScreen(...arguments)", *place) for place in places]
    chain = ActionChains(driver, duration=0)
    pointer = chain.w3c_actions.pointer_action
    pointer.move_to_location(*map(round, points[0])).pointer_down()
    for point in points[1:]:
        pointer.move_to_location(*map(round, point))
    chain.perform()


def move_and_release(driver, place):
    from selenium.webdriver import ActionChains

    chain = ActionChains(driver, duration=0)
    at = driver.execute_script("return app.views[0].onScreen(...arguments)", *place)
    chain.w3c_actions.pointer_action.move_to_location(*map(round, at)).pointer_up()
    chain.perform()


def axial(label, index):
    """A slice (rows, columns) as the page shows it."""
    return label[::-1, ::-1, index].T


def test_a_stroke_over_two_slices_changes_each_where_it_was_drawn(page):
    driver, session, _ = page
    driver.execute_script("app.moveTo([9, 9, 1]); app.setTool('brush'); app.setBrush(4)")
    press(driver, (3, 4), (5, 4))
    driver.execute_script("app.scroll(app.views[0], 1)")
    move_and_release(driver, (12, 12))
    wait(driver, "return app.scan.isSaved && !app.preview && app.scan.version >= 2")
    label = label_in(driver)
    np.testing.assert_array_equal(session.drawing("scan_1").label, label)
    rows, columns = np.nonzero(axial(label, 1))
    assert rows.max() <= 5
    assert columns.max() <= 6
    assert axial(label, 1)[4, 4] == 1
    rows, columns = np.nonzero(axial(label, 2))
    assert rows.min() >= 11
    assert columns.min() >= 11
    assert axial(label, 2)[12, 12] == 1


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_browser_that_is_killed_during_a_stroke_loses_its_end_alone(server, tmp_path):
    address, session, _ = server
    with shown(address, tmp_path / "first") as driver:
        driver.execute_script("app.moveTo([9, 9, 1]); app.setTool('brush'); app.setBrush(4)")
        press(driver, (3, 4), (8, 4))  # and never released
        deadline = time.monotonic() + 600
        while session.drawing("scan_1").version == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(driver.capabilities["goog:processID"], signal.SIGKILL)
    with shown(address, tmp_path / "second") as driver:
        label = label_in(driver)
    assert axial(label, 1)[4, 3:9].all()
