"""The console in a real, headless Chromium: no console errors, no request leaves the page's own origin."""

import json
import shutil
import tempfile

import numpy as np
import pytest
from PIL import Image

from models.data import fashion
from service.api.auth import Scope
from service.security.keys import ApiKeyAuthorizer, KeyRing, create
from tests.e2e.running_service import start_service
from tests.support.console_server import console_server

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1100",
)
WAIT_S = 60


@pytest.fixture(scope="module")
def browser():
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver on the PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(chromedriver))
        try:
            yield driver
        finally:
            driver.quit()


@pytest.fixture(scope="module")
def server():
    with console_server().running() as running:
        yield running


@pytest.fixture
def page(browser, server):
    """The loaded console with its first answer on screen; afterwards nothing may have gone wrong or outside."""
    browser.get_log("browser"), browser.get_log("performance")
    browser.get("about:blank")
    browser.get(f"http://{server.http_url}/")
    _until(browser, "return document.getElementById('best')?.textContent")
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert _hosts(browser) <= {server.http_url}


def _until(browser, script, *arguments):
    """The script's first truthy value."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_S, poll_frequency=0.05).until(lambda d: d.execute_script(script, *arguments))


def _hosts(browser):
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {url.split("/")[2] for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))}


def _fired(browser):
    return browser.execute_script("return Number(document.querySelector('#units canvas').dataset.fired)")


def _fact(browser, name):
    return browser.execute_script(
        "return [...document.querySelectorAll('dl.facts div')].find(d => d.children[0].textContent === arguments[0])"
        "?.children[1].textContent",
        name,
    )


def _move_budget(browser, value):
    browser.execute_script(
        "if (document.getElementById('auto').checked) document.getElementById('auto').click();"
        "const b = document.getElementById('budget'); b.value = arguments[0]; b.dispatchEvent(new Event('input'))",
        value,
    )
    return _until(
        browser,
        "return [...document.querySelectorAll('dl.facts dd')][0]?.textContent === Number(arguments[0]).toFixed(2)",
        value,
    )


def test_a_sample_is_answered_with_bars_and_units(page):
    assert len(page.find_elements("css selector", "#samples button")) == 20
    page.find_elements("css selector", "#samples button")[1].click()
    assert _until(page, "return document.getElementById('best').textContent === 'Trouser'")
    assert len(page.find_elements("css selector", "#answer .bars .fill")) == 5
    assert page.find_element("css selector", "#answer .pill").text == "right"
    assert page.find_elements("css selector", "#curve svg circle.dot")


def test_moving_the_budget_switches_units_off(page):
    full = _fired(page)
    _move_budget(page, 0.5)
    half = _fired(page)
    _move_budget(page, 0.1)
    tenth = _fired(page)
    assert tenth < half < full
    assert _fact(page, "limited by") == "request"
    assert float(_fact(page, "units that ran").split()[0]) == pytest.approx(100 * tenth / 256, abs=0.1)


def test_a_dropped_dark_on_light_picture_is_turned_around_and_recognised(page, tmp_path):
    images = fashion.test_images()
    row = int(np.flatnonzero(images.labels == 1)[0])
    picture = Image.fromarray(255 - images.pixels[row].reshape(28, 28)).resize((280, 280), Image.Resampling.BICUBIC)
    path = tmp_path / "trouser.png"
    picture.save(path)
    page.find_element("id", "file").send_keys(str(path))
    assert _until(page, "return state.truth === null && document.getElementById('best').textContent === 'Trouser'")
    assert page.find_element("id", "invert").is_selected()


def test_a_text_model_compares_texts(page):
    page.find_element("id", "tab-tiny-letters").click()
    _until(page, "return /embedding of 26/.test(document.getElementById('answer').textContent)")
    page.find_elements("css selector", "#texts button")[2].click()
    assert _until(page, "return document.querySelector('#answer .bars .num')?.textContent")
    assert page.find_element("id", "units").text == "This model has no gates."


def test_the_live_strip_counts_what_is_served(page):
    _until(page, "return document.getElementById('live-rate')?.textContent === '0'")
    page.execute_script("document.querySelectorAll('#samples button')[3].click()")
    _until(page, "return (state.history.get('tiny-fashion') || []).some(row => row.rate > 0 && row.p99 > 0)")
    assert page.find_element("id", "status").text == "ready"


def test_it_works_with_the_keyboard_and_in_both_themes(page):
    from selenium.webdriver.common.keys import Keys

    page.find_element("id", "tab-tiny-fashion").send_keys(Keys.ARROW_RIGHT)
    _until(page, "return document.activeElement.id === 'tab-tiny-letters'")
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    _until(page, "return document.getElementById('best')?.textContent")
    before = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    page.find_element("id", "theme").send_keys(Keys.ENTER)
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") != before
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('button, input, textarea')].filter(e => e.offsetParent !== null &&"
        " !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_injected_markup_stays_text_and_inline_script_is_refused(page):
    blocked = page.execute_script(
        "const d = document.createElement('div'); try { d.innerHTML = '<b>x</b>'; return false } catch { return true }"
    )
    assert blocked, "trusted types are enforced"
    page.execute_script(
        "const s = document.createElement('style'); s.textContent = 'body{display:none}'; document.head.append(s)"
    )
    assert page.find_element("tag name", "body").value_of_css_property("display") == "block"
    page.get_log("browser")


def test_with_keys_the_page_asks_for_one(browser):
    from selenium.webdriver.common.keys import Keys

    key, entry = create("web", [Scope.INFER])
    ring = KeyRing([entry])
    with console_server(ApiKeyAuthorizer(lambda: ring)).running() as server:
        browser.get(f"http://{server.http_url}/")
        _until(browser, "return document.getElementById('key-dialog').open")
        browser.find_element("id", "key").send_keys(key, Keys.ENTER)
        assert _until(browser, "return document.getElementById('best')?.textContent")
        browser.get("about:blank")
    browser.get_log("browser")


def test_it_fits_a_phone(browser, server):
    browser.get(f"http://{server.http_url}/")
    browser.set_window_size(500, 900)
    _until(browser, "return document.getElementById('best')?.textContent")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.set_window_size(1280, 1100)


@pytest.mark.ray
def test_the_page_works_over_the_real_service(browser, tmp_path):
    """Through HAProxy and Ray Serve, with a packaged model; leaves console.png to look at."""
    service = start_service(tmp_path, SWAN_MODELS='["fashion-mlp"]')
    try:
        service.wait_ready()
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(f"http://{service.http}/")
        _until(browser, "return document.getElementById('best')?.textContent")
        browser.find_elements("css selector", "#samples button")[1].click()
        _until(browser, "return document.getElementById('best').textContent === 'Trouser'")
        _move_budget(browser, 0.5)
        assert browser.save_screenshot(str(tmp_path / "console.png"))
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        assert _hosts(browser) <= {service.http}
    finally:
        assert service.stop() == 0
