"""Chromium for tests that open a report's page in it."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1400,900",
)


def skip_without_chromium():
    """Skip the whole module where no browser is installed."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its chromedriver on PATH to open the page in", allow_module_level=True)
    pytest.importorskip("selenium.webdriver", reason="selenium, which drives the browser, is not installed")


@contextmanager
def chromium(profile):
    """A browser that keeps its profile in this folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(300)  # seconds, for busy machines
    try:
        yield driver
    finally:
        driver.quit()
