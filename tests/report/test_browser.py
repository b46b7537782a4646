"""The page in a real browser: its viewer scrolls, its outlines toggle, and it asks no network for anything."""

import json

import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.scoring.summary import read_metrics
from tests.report.browser import chromium, skip_without_chromium
from tests.report.conftest import HOSTILE_CASE, HOSTILE_CLASS

skip_without_chromium()

SHEET_DRAWN = "viewer.sheets[0].decode().then(() => viewer.draw())"


@pytest.fixture(scope="module")
def browser(scored_run, tmp_path_factory):
    """A browser that has opened the page of a run from the file system."""
    folder = tmp_path_factory.mktemp("browser")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(scored_run), "--output", str(folder / "page.html")])
    assert not stopped.value.code
    with chromium(folder / "profile") as driver:
        driver.get("about:blank")
        driver.get_log("performance")  # what the browser itself asked for when it started
        driver.get((folder / "page.html").as_uri())
        yield driver


@pytest.fixture
def page(browser):
    browser.refresh()
    wait_for(browser, SHEET_DRAWN)
    return browser


def wait_for(browser, expression):
    """Wait until a promise or a value is there."""
    return browser.execute_async_script(
        f"const done = arguments[0]; Promise.resolve({expression}).then(() => done(true))"
    )


def element(browser, css):
    return browser.find_element("css selector", css)


def pixels(browser):
    return browser.execute_script("return document.getElementById('slice').toDataURL()")


def number(browser):
    return int(element(browser, "#number").text.split("/")[0])


def press(browser, key):
    element(browser, "#stage").send_keys(key)


def test_wheel_keys_and_slider_change_the_slice(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    before, seen = number(page), pixels(page)
    origin = ScrollOrigin.from_element(element(page, "#stage"))
    ActionChains(page).scroll_from_origin(origin, 0, 100).perform()
    assert number(page) == before + 1
    assert pixels(page) != seen
    assert page.execute_script("return scrollY") == 0  # the page itself stays
    press(page, Keys.HOME)
    assert number(page) == 1
    press(page, Keys.ARROW_DOWN)
    assert number(page) == 2
    press(page, Keys.END)
    assert number(page) == 12
    element(page, "#slider").send_keys(Keys.ARROW_LEFT)
    assert number(page) == 11
    assert element(page, "#slider").get_attribute("aria-valuetext") == "axial slice 11 of 12"


def test_outlines_of_prediction_reference_and_classes_can_be_hidden(page):
    both = pixels(page)
    element(page, "#reference").click()
    without_reference = pixels(page)
    assert without_reference != both
    press(page, "p")
    bare = pixels(page)
    assert bare not in (both, without_reference)
    element(page, "#reference").click()
    press(page, "p")
    assert pixels(page) == both
    for box in page.find_elements("css selector", "#classes input"):
        box.click()
    assert pixels(page) == bare
    element(page, "#all-classes").click()
    assert pixels(page) == both
    element(page, "#all-classes").click()
    assert pixels(page) == bare


def test_a_case_is_chosen_in_the_list_or_in_the_table(page, scored_run):
    cases = read_metrics(scored_run)["cases"]
    seen = pixels(page)
    shown = element(page, "#case").get_property("value")
    other = next(case for case in cases if case != shown)
    buttons = {button.text: button for button in page.find_elements("css selector", "[data-show]")}
    assert set(buttons) == set(cases)
    buttons[other].click()
    assert element(page, "#case").get_property("value") == other
    wait_for(page, SHEET_DRAWN)
    assert pixels(page) != seen
    scores = [score.text for score in page.find_elements("css selector", "#classes b")]
    values = [row["dsc"] for row in cases[other]["classes"].values()]
    assert scores == ["–" if value is None else f"{value:.3f}" for value in values]


def test_the_table_says_what_the_metrics_say(page, scored_run):
    classes = read_metrics(scored_run)["classes"]
    rows = page.find_elements("css selector", "#class-scores tbody tr")
    names = [row.find_element("css selector", "th").text for row in rows]
    assert names == list(classes)
    shown = [row.find_element("css selector", "td data").text for row in rows]
    assert shown == [f"{row['dsc']:.3f}" for row in classes.values()]


def test_the_theme_changes(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(ground)
    element(page, "#theme").click()
    assert page.execute_script(ground) != before
    profile = "return document.getElementById('profile').toDataURL()"
    at_once = page.execute_script(profile)
    page.execute_script("viewer.draw()")
    assert page.execute_script(profile) == at_once  # its frame has the colour of the theme's text
    element(page, "#theme").click()
    assert page.execute_script(profile) != at_once


def test_a_narrow_window_needs_no_sideways_scrolling(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_run_no_code_no_error_is_logged_and_no_network_is_asked(page):
    assert page.execute_script("return document.querySelectorAll('script').length") == 2
    assert HOSTILE_CLASS in element(page, "#classes").text
    assert HOSTILE_CASE in element(page, "#case").text
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {
        m["params"]["request"]["url"].partition(":")[0] for m in messages if m["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data"}
    assert "file" in asked  # the log does see requests
