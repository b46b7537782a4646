"""The panel of rounds in a real browser: train on what is labelled, see the progress, and get proposals."""

import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'annotate' is not installed")

from tests.report.browser import chromium, skip_without_chromium

from .serving import CLASSES, TOKEN, made_proposals, make_runs, served, write_scans
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
def page(tmp_path):
    """A browser that shows a server of three scans, two of which are labelled; with the server's session and rounds."""
    from medsam_adapt.annotation.rounds import Rounds
    from medsam_adapt.annotation.session import open_session

    boxes, whole = make_runs(tmp_path / "runs")
    session = open_session(write_scans(tmp_path / "scans"), CLASSES, tmp_path / "output")
    for scan in ("scan_0", "scan_1"):
        label(session, scan)
    rounds = Rounds(session, made_proposals(boxes), whole, device="cpu", options=SMALL)
    session.start()
    with served(session, rounds.proposals, rounds) as address, chromium(tmp_path / "profile") as driver:
        driver.get(f"{address}/?token={TOKEN}")
        wait(driver, "return typeof app !== 'undefined' && app?.scan && !byId('round').hidden")
        yield driver, session, rounds
    rounds.stop()
    rounds.proposals.close()
    session.close()


def wait(driver, expression, seconds=900):
    deadline = time.monotonic() + seconds
    while not driver.execute_script(expression):
        assert time.monotonic() < deadline, driver.execute_script("return document.body.innerText")
        time.sleep(0.05)


def test_retrain_trains_in_the_background_and_proposes(page):
    driver, session, rounds = page
    shown = "return document.querySelector('[data-scan=\"{}\"] small').textContent"
    assert driver.execute_script("return app.scan.id") == "scan_2"  # the first one that is not finished
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
    expected = rounds.proposals.automatic.predictor(session.scans["scan_2"].image)
    drawing = session.drawing("scan_2")
    assert np.array_equal(drawing.native(drawing.label), expected)
    # The page shows what the run proposed for the scan that is open.
    np.testing.assert_array_equal(label_in(driver), drawing.label)
    assert driver.execute_script(shown.format("scan_2")) == "proposed"
    assert driver.execute_script(shown.format("scan_0")) == "labelled"
    suggested = driver.execute_script(
        "return [...document.querySelectorAll('#suggested button')].map((e) => e.textContent)"
    )
    assert suggested == ["scan_2"]
    assert [each for each in driver.get_log("browser") if each["level"] == "SEVERE"] == []


def test_whole_scan_asks_before_it_replaces_a_persons_work(page):
    driver, session, rounds = page
    rounds.use_latest()
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
    np.testing.assert_array_equal(after, session.drawing("scan_2").label)


def label_in(driver):
    runs, shape = driver.execute_script("return [toRuns(app.scan.label), app.scan.shape]")
    pairs = np.array(runs).reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.uint8).reshape(shape, order="F")
