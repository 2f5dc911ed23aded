"""Chromium without a window, and a page that is open in it."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from analysis import report
from analysis.results import PROGRAM
from lines import write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
except ImportError:
    webdriver = None
MISSING = [name for name, there in (("chromium", CHROMIUM), ("chromium-driver", DRIVER),
                                    ("python3-selenium", webdriver)) if not there]
needed = pytest.mark.skipif(bool(MISSING), reason="not installed (`make deps-page`): " +
                            ", ".join(MISSING))


def start(downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--hide-scrollbars", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(DRIVER), options=options)
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {
        "behavior": "allow", "downloadPath": str(downloads)})
    return driver


def show(driver, page, width=1280, height=900, dark=False, fragment=""):
    """Opens the page anew and waits until it is drawn."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(f"{page.resolve().as_uri()}{fragment}")
    wait(driver, "return document.documentElement.dataset.ready")


def wait(driver, script, seconds=60):
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(script)):
        assert time.monotonic() < end, (script, driver.get_log("browser"))
        time.sleep(0.03)
    return found


class Page:
    """A page that is open, and words to speak to it."""

    def __init__(self, driver, path, downloads):
        self.driver, self.path, self.downloads = driver, path, downloads

    def open(self, fragment="", **how):
        show(self.driver, self.path, fragment=fragment, **how)
        return self

    def js(self, script, *arguments):
        return self.driver.execute_script(f"const page = window.helixBench; {script}", *arguments)

    def state(self, name):
        return self.js(f"return page.state.{name}")

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def click(self, selector):
        self.js("document.querySelector(arguments[0]).scrollIntoView({block: 'center', behavior: 'instant'})",
                selector)
        self.find(selector).click()

    def choose(self, name, value):
        self.js("""const select = document.getElementById(arguments[0]); select.value = arguments[1];
            select.dispatchEvent(new Event('change'))""", name, value)

    def type(self, name, value):
        self.js("""const input = document.getElementById(arguments[0]); input.value = arguments[1];
            input.dispatchEvent(new Event('input'))""", name, value)

    def picture(self):
        return self.js("return document.getElementById('plot').toDataURL()")

    def rows(self):
        """The rows that are shown, as dictionaries."""
        return self.js("""const r = page.data.rows; return page.currentView().rows.map((i) => ({i, id: r.id[i],
            x: r.x[i], y: r.y[i], strategy: r.strategy[i], batch: r.batch[i], ranks: r.ranks[i], hop: r.hop_b[i],
            proof: r.proof[i], ttl: r.ttl[i], p90: r.user_p90[i], panel: r.panel[i], frontier: r.frontier[i],
            hull: r.hull[i], layer: page.data.panels[r.panel[i]].layer, context: page.data.panels[r.panel[i]].context}))""")

    def standing(self):
        return set(self.js("return page.currentView().curves.flatMap((curve) => curve.frontier)"))

    def downloaded(self, button, kind):
        for old in self.downloads.iterdir():
            old.unlink()
        self.click(button)
        for _ in range(200):
            found = [path for path in self.downloads.iterdir() if path.suffix == kind]
            if found and found[0].stat().st_size:
                return found[0].read_bytes()
            time.sleep(0.05)
        raise AssertionError(f"{button} saved nothing")

    def quiet(self):
        said = [entry for entry in self.driver.get_log("browser") if "favicon" not in entry["message"]]
        assert not said, said


def write_page(folder, lines, **of):
    """The page of a run with these lines, as `report` makes it."""
    return report.write_report([write_run(folder, lines, **of)], None, PROGRAM, [])


def screenshot(page, picture, script="", **how):
    """A PNG of the page as it stands after a script, the height of the window."""
    driver = start("/tmp")
    try:
        show(driver, Path(page), **how)
        driver.execute_script(f"const page = window.helixBench; {script}")
        driver.save_screenshot(str(picture))
    finally:
        driver.quit()


if __name__ == "__main__":
    screenshot(*sys.argv[1:4])
