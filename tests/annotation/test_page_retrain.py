"""The button Retrain in a real browser: a round of training in the background, one that fails, and one that is stopped.

The trainings are the command's own, in its own process, of networks with few channels.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'annotate' is not installed")

from medsam_adapt.networks import DecoderOnly
from medsam_adapt.runs.record import read_run
from tests.made_runs import make_run
from tests.report.browser import chromium, skip_without_chromium

from .browsing import SHOWN, label_in, wait
from .serving import CLASSES, TOKEN, made_proposals, served, write_scans
from .test_rounds import label

skip_without_chromium()
pytestmark = pytest.mark.usefixtures("tiny_nano")

SMALL = ("--epochs", "1", "--set", "min_steps=1", "--set", "batch_size=2")
# What the panel shows, as it changes; collected in the page, since a short stage may pass between two looks from here.
COLLECT = """
window.stages = [];
const note = () => {
  const text = byId('round-status').textContent;
  if (text && stages.at(-1) !== text) stages.push(text);
};
new MutationObserver(note).observe(byId('round'), {childList: true, subtree: true, characterData: true});
"""


@pytest.fixture(scope="module")
def runs(tiny_nano, tmp_path_factory):
    """A run that draws in boxes, and one without prompts, which was trained on scan_0 and held out scan_2."""
    folder = tmp_path_factory.mktemp("runs")
    knobs = {"seed": 0, "checkpoint": "random", "image_size": 32, "intensity": "auto", "tune_encoder": False}
    facts = {"bundle": "decoder", "train": ["scan_0"], "held_out": ["scan_2"], "knobs": knobs}
    whole = make_run(folder / "whole", names=CLASSES, adapter=DecoderOnly(), **facts)
    return make_run(folder / "boxes", "box", names=CLASSES), whole


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as driver:
        yield driver


@pytest.fixture
def page(runs, browser, tmp_path):
    """The page of four scans, of which 0 and 2 are labelled: driver, session, and rounds that start from a run."""
    from medsam_adapt.annotation.opening import open_session
    from medsam_adapt.annotation.rounds import Rounds

    session = open_session(write_scans(tmp_path / "scans", 4), CLASSES, tmp_path / "output")
    for scan in ("scan_0", "scan_2"):
        label(session, scan)
    rounds = Rounds(session, made_proposals(runs[0]), start=runs[1], device="cpu", options=SMALL)
    session.start()
    with served(session, rounds.proposals, rounds) as address:
        browser.get(f"{address}/?token={TOKEN}")
        wait(browser, f"return {SHOWN} && !byId('round').hidden")
        browser.execute_script(COLLECT)
        yield browser, session, rounds
        browser.get("about:blank")
    rounds.stop()
    rounds.proposals.close()
    session.close()


def text(driver, element):
    return driver.find_element("id", element).text


def ended(driver):
    """What the panel showed, one after the other, when the round is over."""
    wait(driver, "return stages.length && byId('round-progress').hidden && !byId('retrain').disabled")
    return driver.execute_script("return stages")


def test_retrain_trains_in_the_background_and_proposes(page, warm_training):
    driver, session, rounds = page
    warm_training(rounds)
    status = "return document.querySelector('[data-scan=\"{}\"] small').textContent"
    assert driver.execute_script("return app.scan.id") == "scan_1"
    assert not driver.find_element("id", "segment").is_displayed()
    driver.find_element("id", "minutes").clear()  # as many epochs as the options ask for
    driver.find_element("id", "retrain").click()
    wait(driver, "return !byId('round-progress').hidden && byId('retrain').disabled && byId('rank').disabled")
    assert driver.find_element("id", "stop-round").is_displayed()
    # Drawing goes on meanwhile.
    driver.execute_script("app.display.moveTo([9, 9, 1]); app.tools.choose('brush'); app.tools.use(true)")
    wait(driver, "return app.scan.isSaved && app.scan.version === 1")
    drawn = label_in(driver)
    stages = ended(driver)
    assert stages[0].startswith("Training on 2 scans"), stages
    assert stages[-1] == "round_01 is trained and proposes.", stages
    assert not driver.find_element("id", "stop-round").is_displayed()

    # Who was held out by the run that it started from stays held out.
    record = read_run(session.output / "runs" / "round_01")
    assert (record.train, record.held_out) == (["scan_0"], ["scan_2"])
    assert Path(record.knobs["from_run"]).name == "whole"

    # The new run labels whole scans, and proposes for the scan that nobody worked on.
    wait(driver, "return byId('segment').offsetParent !== null")  # the page asks for it when the round is over
    wait(driver, status.format("scan_3") + " === 'draft'")
    assert [driver.execute_script(status.format(f"scan_{number}")) for number in range(4)] == [
        "finished", "draft", "finished", "draft",
    ]  # fmt: skip
    np.testing.assert_array_equal(label_in(driver), drawn)
    driver.find_element("xpath", "//ol[@id='suggested']//button[.='scan_3']").click()
    wait(driver, "return app.scan.id === 'scan_3'")
    expected = rounds.proposals.automatic.predictor(session.scans["scan_3"].image)
    assert rounds.proposals.automatic.author.name == "round_01"
    assert expected.any()
    drawing = session.drawing("scan_3")
    assert np.array_equal(drawing.native(drawing.label), expected)
    np.testing.assert_array_equal(label_in(driver), drawing.label)
    assert [each for each in driver.get_log("browser") if each["level"] == "SEVERE"] == []


def test_a_training_that_fails_is_explained_in_a_sentence(page):
    driver, session, rounds = page
    rounds.start_run, rounds.options = None, ("--bundle", "loar")
    driver.find_element("id", "retrain").click()
    ended(driver)
    shown = driver.find_element("id", "round-status")
    assert shown.text == rounds.progress.message
    assert "loar" in shown.text
    assert shown.text.endswith(".")
    assert "problem" in shown.get_attribute("class")
    assert driver.find_element("id", "retrain").is_enabled()  # to try again
    assert not driver.find_element("id", "segment").is_displayed()
    assert session.status("scan_1") == "open"


def test_a_training_is_stopped_and_another_one_may_begin(page, monkeypatch):
    driver, _, rounds = page
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(rounds, "command", lambda *wanted: sleep)
    for _ in range(2):
        driver.find_element("id", "retrain").click()
        wait(driver, "return !byId('stop-round').hidden")
        driver.find_element("id", "stop-round").click()
        assert ended(driver)[-1] == "Stopped."
        assert rounds.progress.status == "stopped"
    assert not driver.find_element("id", "segment").is_displayed()
