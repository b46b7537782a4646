"""The page in a real browser on small scans: questions, strokes, a browser that crashes, and what it explains."""

import os
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'annotate' is not installed")

from tests.made_runs import make_run
from tests.report.browser import chromium, skip_without_chromium

from .browsing import SHOWN, drag, label_in, wait
from .serving import CLASSES, TOKEN, made_proposals, served, write_scans
from .test_rounds import label

skip_without_chromium()
pytestmark = pytest.mark.usefixtures("tiny_nano")


@pytest.fixture
def server(tmp_path):
    """A server of three scans, two of which are labelled: its address, session and rounds."""
    from medsam_adapt.annotation.opening import open_session
    from medsam_adapt.annotation.rounds import Rounds

    boxes = make_run(tmp_path / "boxes", "box", names=CLASSES)
    session = open_session(write_scans(tmp_path / "scans"), CLASSES, tmp_path / "output")
    for scan in ("scan_0", "scan_2"):
        label(session, scan)
    rounds = Rounds(session, made_proposals(boxes), device="cpu")
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
        wait(driver, f"return {SHOWN} && !byId('round').hidden")
        assert driver.execute_script("return app.scan.id") == "scan_1"
        yield driver


@pytest.fixture
def page(server, tmp_path):
    with shown(server[0], tmp_path / "profile") as driver:
        yield driver, *server[1:]


def test_whole_scan_asks_before_it_replaces_a_persons_work(page, tmp_path):
    from medsam_adapt.annotation.proposing_models import run_model

    driver, session, rounds = page
    rounds.proposals.automatic = run_model(make_run(tmp_path / "whole", names=CLASSES), "cpu")
    driver.refresh()
    wait(driver, f"return {SHOWN} && !byId('segment').hidden")
    touch(driver)
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


def move_and_release(driver, place):
    from selenium.webdriver import ActionChains

    chain = ActionChains(driver, duration=0)
    at = driver.execute_script("return app.display.views[0].onScreen(...arguments)", *place)
    chain.w3c_actions.pointer_action.move_to_location(*map(round, at)).pointer_up()
    chain.perform()


def touch(driver):
    """Paint with the brush at one place."""
    driver.execute_script("app.display.moveTo([9, 9, 1]); app.tools.choose('brush'); app.tools.use(true)")


def axial(label, index):
    """A slice (rows, columns) as the page shows it."""
    return label[::-1, ::-1, index].T


def test_a_stroke_over_two_slices_changes_each_where_it_was_drawn(page):
    driver, session, _ = page
    driver.execute_script("app.display.moveTo([9, 9, 1]); app.tools.choose('brush'); app.tools.setBrush(4)")
    drag(driver, (3, 4), (5, 4), release=False)
    driver.execute_script("app.display.scroll(app.display.views[0], 1)")
    move_and_release(driver, (12, 12))
    wait(driver, "return app.scan.isSaved && !app.tools.preview && app.scan.version >= 2")
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
        driver.execute_script("app.display.moveTo([9, 9, 1]); app.tools.choose('brush'); app.tools.setBrush(4)")
        drag(driver, (3, 4), (8, 4), release=False)
        deadline = time.monotonic() + 600
        while session.drawing("scan_1").version == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(driver.capabilities["goog:processID"], signal.SIGKILL)
    with shown(address, tmp_path / "second") as driver:
        label = label_in(driver)
    assert axial(label, 1)[4, 3:9].all()


def message(driver):
    shown = driver.find_element("id", "message")
    return shown.text, "problem" in shown.get_attribute("class")


def test_a_finished_label_names_the_structures_that_are_not_in_it_and_retrain_has_it_at_once(page):
    driver, session, _ = page
    for scan in ("scan_0", "scan_2"):
        session.set_labelled(scan, False)
    driver.execute_script("return rounds.look()")
    assert not driver.find_element("id", "retrain").is_enabled()
    driver.find_element("id", "finish").click()
    wait(driver, "return /^Finished/.test(byId('message').textContent)")
    assert message(driver) == (
        "Finished. Not drawn, so Retrain learns that this scan has none: liver, right kidney, spleen.",
        True,  # nothing at all is drawn: probably a key that was not meant
    )
    wait(driver, "return !byId('retrain').disabled")
    badge = driver.find_element("css selector", "[data-scan='scan_1'] small")
    assert badge.text == "finished"
    driver.find_element("id", "finish").click()
    wait(driver, "return /a draft again/.test(byId('message').textContent) && byId('retrain').disabled")
    assert badge.text == "draft"
    driver.execute_script("app.structures.choose(1)")
    touch(driver)
    wait(driver, "return app.scan.isSaved && app.scan.version === 1")
    driver.find_element("id", "finish").click()
    wait(driver, "return /^Finished/.test(byId('message').textContent)")
    assert message(driver) == ("Finished. Not drawn, so Retrain learns that this scan has none: liver, spleen.", False)


def test_a_structure_can_be_propagated_while_its_box_is_drawn(page):
    driver, session, _ = page
    box = driver.execute_script(
        "app.display.moveTo([9, 9, 1]); app.proposals.addBox(app.display.views[0], [3, 3, 14, 14]);"
        "app.attempt(() => app.proposals.propagate('both')); return app.proposals.pending.box"
    )
    assert box == [3, 3, 14, 14]  # it stays on the slice
    wait(driver, "return !app.proposals.running && app.scan.isSaved && app.scan.version > 0 && !app.proposals.pending")
    wait(driver, "return !/…/.test(byId('message').textContent)")
    assert message(driver)[1] is False
    np.testing.assert_array_equal(session.drawing("scan_1").label, label_in(driver))


def test_what_cannot_be_done_is_explained(page):
    driver, _, _ = page
    driver.execute_script("return app.attempt(() => app.proposals.propagate('both'))")
    assert message(driver) == ("propagate: the structure is on no slice yet. Draw a box on a slice first.", True)
    driver.execute_script("return app.attempt(() => app.proposals.segment())")
    assert message(driver) == ("No run labels whole scans yet: Retrain trains one.", False)
    driver.execute_script("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    driver.execute_script("return app.attempt(() => app.save())")
    assert message(driver) == (
        "The server does not answer. Check that annotate still runs where it was started.",
        True,
    )


def test_buttons_name_what_they_do_next(page):
    driver, _, _ = page
    every, one = driver.find_element("id", "hide-all"), driver.find_element("css selector", "[data-hide]")
    assert (every.text.split()[0], one.text, one.get_attribute("aria-label")) == ("Hide", "Hide", "Hide liver")
    one.click()
    assert (every.text.split()[0], one.text, one.get_attribute("aria-label")) == ("Show", "Show", "Show liver")
    every.click()
    assert (every.text.split()[0], one.text) == ("Hide", "Hide")
    for tool, hint in (("brush", "Paint"), ("point", "Click inside"), ("box", "Drag a box")):
        driver.find_element("css selector", f"[data-tool={tool}]").click()
        assert driver.find_element("id", "hint").text.startswith(hint)
    keys = driver.execute_script("return [...document.querySelectorAll('#key-list kbd')].map((e) => e.textContent)")
    assert {"B", "Esc", "Del", "Ctrl+Z", "Arrows", "1 – 9"} <= {*keys}
    assert "ArrowLeft" not in keys


# Runs the action of every key that opens no dialog; names the keys whose action is broken, and how.
PRESS_ALL = """
const done = arguments[0], broken = [];
(async () => {
  for (const [key, action] of ACTIONS) {
    if (key === '?') continue;
    try {
      await action(app);
    } catch (error) {
      if (error instanceof TypeError || error instanceof ReferenceError) broken.push(`${key}: ${error.message}`);
    }
  }
  await app.open('scan_1');
  await app.scan.send();
  done([ACTIONS.size, broken]);
})();
"""


def test_every_key_does_something_that_exists(page):
    driver, _, _ = page
    driver.set_script_timeout(900)
    count, broken = driver.execute_async_script(PRESS_ALL)
    assert count > 50
    assert broken == []
