"""The page in a real browser: readable for all, at any width, in light and dark, on paper, and without a network.

Needs Debian's Chromium, and of Python packages playwright and axe-playwright-python, which brings axe.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest
from told_runs import whole

from preferent.cli import main

pytestmark = pytest.mark.slow
PLAYWRIGHT = importlib.util.find_spec("playwright")
AXE = importlib.util.find_spec("axe_playwright_python")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALONE = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844), "narrow": (320, 640)}


@pytest.fixture(scope="module")
def browser():
    if PLAYWRIGHT is None or CHROMIUM is None:
        pytest.skip("needs chromium and the package playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ALONE)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = whole(tmp_path_factory.mktemp("browsed") / "demo")
    assert main(["report", str(folder)]) == 0
    return (folder / "report.html").as_uri()


@pytest.fixture
def shown(browser, address):
    """Opens the page; what it asks of the network and complains of is kept in ``page.asked``."""
    opened = []

    def show(width, scheme, *, media="screen"):
        context = browser.new_context(
            viewport=dict(zip(("width", "height"), WIDTHS[width], strict=True)), color_scheme=scheme, offline=True
        )
        opened.append(context)
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.asked.append(message.text))
        page.goto(address)
        page.emulate_media(media=media, color_scheme=scheme)
        return page

    yield show
    for context in opened:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_axe_finds_no_violation(width, scheme, shown):
    """Every fold is open, so that what is behind it is looked at as well."""
    if AXE is None:
        pytest.skip("needs the package axe-playwright-python")
    page = shown(width, scheme)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    page.evaluate((Path(AXE.submodule_search_locations[0]) / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(width, shown):
    page = shown(width, "light")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_the_page_asks_for_nothing_but_itself(shown, address):
    assert shown("desktop", "light").asked == [address]


def test_dark_is_dark_and_paper_is_light(shown):
    colour = "getComputedStyle(document.body).backgroundColor"
    assert shown("desktop", "dark").evaluate(colour) == "rgb(20, 24, 29)"
    assert shown("desktop", "light").evaluate(colour) == "rgb(255, 255, 255)"
    assert shown("desktop", "dark", media="print").evaluate(colour) == "rgb(255, 255, 255)"


def test_every_picture_is_named_and_drawn(shown):
    page = shown("phone", "light")
    names = page.get_by_role("img").all()
    assert len(names) >= 20
    assert all(name.bounding_box()["width"] > 250 for name in names)
    assert page.get_by_role("img", name="Reward against √KL, in training").count() == 1


def test_letters_in_pictures_can_be_read_on_a_phone(shown):
    """The drawing is scaled to the width of the screen: its 11.5 units are at least 9 pixels there."""
    page = shown("phone", "light")
    heights = page.evaluate(
        "[...document.querySelectorAll('figure > svg')].map(svg => 11.5 * svg.getBoundingClientRect().width / 420)"
    )
    assert min(heights) >= 9


def test_the_numbers_can_be_reached_with_the_keyboard(shown):
    page = shown("desktop", "light")
    fold = page.locator("figure details").first
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.get_attribute("open") is not None
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "group"


def test_it_prints_on_a_few_sheets(shown):
    page = shown("desktop", "light", media="print")
    sheets = page.pdf(format="A4").count(b"/Type /Page\n")
    assert 3 <= sheets <= 16
