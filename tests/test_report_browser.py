"""The report in a headless browser, opened from disk without a network: drawn, usable, and nothing is cut off.

The tests need Playwright and a Chromium: `pip install playwright`, and `apt install chromium` or
`playwright install chromium`.
"""

import io
import shutil

import numpy as np
import pytest
from agent_toys import tiny_config, write_marked_store
from glimpse_agents import report
from glimpse_agents.reinforce import train
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WIDTHS = (1280, 800, 390)

pytestmark = [pytest.mark.slow, pytest.mark.ci]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    store = write_marked_store(folder / "marked")
    for model in ("reinforce", "random", "soft"):
        train(tiny_config(source=str(store), model=model), folder / "runs" / model)
    report.main(report.Arguments(runs=(folder / "runs",), out=folder / "report.html"))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, path):
    """Return a function that opens the page at a width, and fails if it fetches anything or its script fails."""
    contexts, faults = [], []

    def open_page(width, scheme="light"):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        )
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith(("data:", path.as_uri())) or faults.append(request.url)
        )
        page.goto(path.as_uri(), wait_until="load")
        page.wait_for_function("[...document.querySelectorAll('.viewer canvas')].every(canvas => canvas.width > 300)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_every_picture_decodes(opened, width):
    page = opened(width)
    for summary in page.locator("summary").all():
        summary.click()
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 1)")
    assert page.evaluate("document.documentElement.scrollWidth") == width  # wide tables scroll within the page
    edges = page.evaluate(
        "[...document.querySelectorAll('main *:not(.wide *)')].map(e => e.getBoundingClientRect().right)"
    )
    assert max(edges) <= width
    assert page.locator("img").count() >= 9
    assert page.evaluate("[...document.querySelectorAll('h1, .verdict, table th')].every(e => e.clientWidth > 0)")
    rows = page.locator("main > section > .wide").first.locator("th[scope=col]")
    assert rows.all_inner_texts() == ["model", "glimpses", "accuracy", "minus random", "clips"]
    assert page.locator("main > section > .wide").first.evaluate(
        "e => e.scrollWidth <= e.clientWidth"
    )  # nothing hidden


@pytest.mark.parametrize("width", WIDTHS)
def test_keys_slider_and_buttons_move_through_the_frames(opened, width):
    page = opened(width)
    frame, slider = page.locator(".viewer output"), page.locator(".viewer input[type=range]")
    assert frame.inner_text() == "frame 1 of 4, 0.00 s"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert frame.inner_text() == "frame 3 of 4, 0.20 s"
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "1"
    slider.fill("3")
    assert frame.inner_text() == "frame 4 of 4, 0.30 s"
    page.keyboard.press("Home")
    page.locator(".viewer button").click()
    page.wait_for_function("document.querySelector('.viewer output').textContent.startsWith('frame 4')")
    assert page.locator(".viewer button").inner_text() == "▶ Play"  # it ends with the clip


def test_the_first_frame_is_whole_and_later_ones_are_dim_outside_of_the_looks(opened):
    page = opened(1280)
    middles = """canvas => {
      const pen = canvas.getContext("2d"), side = canvas.width / 3;
      const middle = place => (place + 0.5) * side;
      const level = cell => pen.getImageData(middle(cell % 3), middle(Math.floor(cell / 3)), 1, 1).data[0];
      return [0, 1, 2, 3, 4, 5, 6, 7, 8].map(level);
    }"""
    reinforce = page.locator(".viewer canvas").first
    whole = reinforce.evaluate(middles)
    assert len(set(whole)) == 1  # the toy's pictures are of one grey
    page.keyboard.press("ArrowRight")
    later = reinforce.evaluate(middles)
    assert sorted(level == whole[0] for level in later) == [False] * 7 + [True] * 2
    assert reinforce.get_attribute("aria-label").startswith("reinforce looked at the cells row ")
    assert page.locator(".viewer .said").first.inner_text()[0] in "✓✗"


def test_clip_and_models_can_be_chosen(opened):
    page = opened(800)
    clips = page.locator(".viewer .clip option").all_inner_texts()
    assert len(clips) == 6
    seen = page.locator(".viewer canvas").first.evaluate("canvas => canvas.toDataURL()")
    page.locator(".viewer .clip").select_option(index=5)
    page.wait_for_function(f"document.querySelector('.viewer canvas').toDataURL() !== {seen!r}")
    assert page.locator(".viewer output").inner_text() == "frame 1 of 4, 0.00 s"
    page.locator(".viewer input[value=soft]").uncheck()
    shown = page.locator(".viewer .panel:visible .title").all_inner_texts()
    assert shown == ["REINFORCE, m glimpses", "random, m cells"]
    for label in ("class", "(true)"):
        assert label in page.locator(".viewer .scores").first.inner_text()


def test_the_page_is_light_or_dark(opened):
    grounds = []
    for scheme in ("light", "dark"):
        page = opened(390, scheme)
        colours = page.evaluate("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])")
        ground, ink = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
        assert abs(ground - ink) > 150
        plot = page.locator(".plots img").first
        plot.scroll_into_view_if_needed()
        with Image.open(io.BytesIO(plot.screenshot())) as image:
            levels = np.asarray(image.convert("L"), float)
        assert abs(np.median(levels) - ground) < 5  # the plot has the ground of the page ...
        assert np.abs(levels - ink).min() < 40  # ... and its ink
        grounds.append(ground)
    assert grounds[0] > 200 > 80 > grounds[1]
