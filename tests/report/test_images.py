"""The viewer of a page switches between the images of a case, on the same slice and under the same outlines."""

import json

import pytest

from tests.report.browser import chromium, skip_without_chromium
from tests.report.made_pages import page

skip_without_chromium()

DRAWN = "Promise.all(viewer.sheets.map((sheet) => sheet.decode())).then(() => viewer.draw())"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def opened(browser, folder, **changes):
    """Open a page in the browser."""
    path = folder / "page.html"
    path.write_text(page(**changes), encoding="utf-8", newline="\n")
    browser.get(path.as_uri())
    return browser


def drawn(browser):
    """The pixels of the slice, when its picture is decoded."""
    browser.execute_async_script(f"const done = arguments[0]; ({DRAWN}).then(() => done(true))")
    return browser.execute_script("return document.getElementById('slice').toDataURL()")


def is_shown(browser, css):
    return browser.find_element("css selector", css).is_displayed()


def state(browser):
    return browser.execute_script("return [viewer.image, viewer.index, viewer.case.id, byId('image').value]")


def test_the_list_and_a_key_change_the_image_and_keep_the_slice(browser, tmp_path):
    from selenium.webdriver.support.ui import Select

    opened(browser, tmp_path, images=("T2", "ADC", "DWI"))
    assert is_shown(browser, "#image")
    chosen = Select(browser.find_element("css selector", "#image"))
    assert [option.text for option in chosen.options] == ["T2", "ADC", "DWI"]
    browser.execute_script("viewer.goTo(5)")
    pictures = [drawn(browser)]
    for name in ("ADC", "DWI"):
        chosen.select_by_visible_text(name)
        pictures.append(drawn(browser))
        label = browser.find_element("css selector", "#slice").get_attribute("aria-label")
        assert label.endswith(name)
    assert len({*pictures}) == 3
    assert state(browser) == [2, 5, "case_1", "2"]
    stage = browser.find_element("css selector", "#stage")
    stage.send_keys("i")  # after the last image the first one
    assert state(browser) == [0, 5, "case_1", "0"]
    assert drawn(browser) == pictures[0]


def test_another_case_shows_the_same_image(browser, tmp_path):
    opened(browser, tmp_path, images=("T2", "ADC"))
    browser.find_element("css selector", "#stage").send_keys("i")
    first = drawn(browser)
    browser.execute_script("viewer.show('case_2')")
    assert state(browser)[0] == 1
    assert state(browser)[2] == "case_2"
    assert drawn(browser) != first
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_case_of_one_image_has_no_list(browser, tmp_path):
    opened(browser, tmp_path)
    assert not is_shown(browser, "#image")
    assert not is_shown(browser, "#image-key")
    before = drawn(browser)
    browser.find_element("css selector", "#stage").send_keys("i")
    assert drawn(browser) == before
    assert json.loads(browser.execute_script("return JSON.stringify(viewer.case.images)")) == []
