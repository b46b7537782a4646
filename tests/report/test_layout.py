"""No part of a page covers another or runs out of its box: on a wide screen, on a phone, and on paper."""

import base64
import io
from itertools import combinations
from pathlib import Path

import pytest

from tests.report.browser import chromium, skip_without_chromium
from tests.report.made_pages import PAGES, page

skip_without_chromium()
pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2, which reads the printed pages, is not installed")

CHECK = Path(__file__).with_name("layout.js").read_text(encoding="utf-8")
PAPER_WIDTH = round(186 / 25.4 * 96)  # of A4 without its margins, pixels
MARGIN = 12 / 25.4 * 72  # of a printed page, points


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def faults(browser, width, medium="screen", theme="light", may_scroll=False):
    """What is wrong with the layout in a window of this width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
    found = browser.execute_script(f"{CHECK}; return findFaults({str(may_scroll).lower()})")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return found


@pytest.mark.parametrize("shape", PAGES)
def test_nothing_overlaps_or_overflows(browser, tmp_path, shape):
    path = tmp_path / "page.html"
    path.write_text(page(**PAGES[shape]), encoding="utf-8", newline="\n")
    browser.get(path.as_uri())
    many = shape == "many classes"  # whose columns scroll inside their box on a wide screen; fewer must fit
    found = {f"wide, {theme}": faults(browser, 1300, theme=theme, may_scroll=many) for theme in ("light", "dark")}
    found |= {f"phone, {theme}": faults(browser, 375, theme=theme) for theme in ("light", "dark")}
    found["paper"] = faults(browser, PAPER_WIDTH, "print")
    assert {view: sentences for view, sentences in found.items() if sentences} == {}
    check_printed(browser, most_pages=9 if many else 5)


def check_printed(browser, most_pages):
    """Print the page, and look at each sheet."""
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")  # paper stays light
    settings = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True, "preferCSSPageSize": True}
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", settings)["data"])
    with pdfium.PdfDocument(io.BytesIO(printed)) as document:
        assert len(document) <= most_pages
        for sheet in document:
            check_sheet(sheet)
        words = " ".join(sheet.get_textpage().get_text_range() for sheet in document)
    assert "What was trained on what" in words
    assert "Research software" in words


def check_sheet(sheet):
    """Whether a sheet is light, keeps its margins, and has no picture on its text."""
    grey = sheet.render(scale=0.5).to_pil().convert("L")
    dark = sum(grey.histogram()[:64]) / (grey.width * grey.height)
    assert dark < 0.5
    text = sheet.get_textpage()
    lines = [text.get_rect(index) for index in range(text.count_rects())]
    left, right = MARGIN - 2, sheet.get_width() - MARGIN + 2
    assert all(left <= box[0] and box[2] <= right for box in lines)
    pictures = [item.get_bounds() for item in sheet.get_objects() if item.type == pdfium.raw.FPDF_PAGEOBJ_IMAGE]
    assert not [box for box in lines for picture in pictures if overlap(box, picture)]
    assert not [pair for pair in combinations(pictures, 2) if overlap(*pair)]


def overlap(first, second):
    """Whether two boxes (left, bottom, right, top) share more than an edge, in points."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    return across > 1 and min(first[3], second[3]) - max(first[1], second[1]) > 1


def test_the_check_finds_what_is_wrong(browser, tmp_path):
    path = tmp_path / "faulty.html"
    path.write_text(
        "<!doctype html><body><p style='position:absolute;left:9px;top:9px'>covered</p>"
        "<svg style='position:absolute;left:0;top:0' width=99 height=99></svg>"
        "<p style='margin-top:200px;width:40px;white-space:nowrap'>a long line of text in a narrow block</p>"
        "<div style='width:80px;overflow:auto'><table id=t><tr><td style='min-width:200px'>cell</table></div>"
        "<p style='color:#ccc'>pale</p>",
        encoding="utf-8",
    )
    browser.get(path.as_uri())
    found = " ".join(faults(browser, 1300))
    for fault in ("“covered” and “<svg>” overlap", "leaves its <p>", "#t does not fit", "“pale” has a contrast of 1.6"):
        assert fault in found
