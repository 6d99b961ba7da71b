"""The report in a browser, opened from disk: every picture decodes, and nothing is fetched or cut off."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from agent_toys import tiny_config, write_marked_store
from glimpse_agents import report
from glimpse_agents.reinforce import train

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# Writes the browser's findings into a copy of the page.
ASKED = """<pre id="seen"></pre><script>
addEventListener("load", () => {
  const seen = {
    images: [...document.images].map(image => [image.complete, image.naturalWidth, image.clientWidth]),
    fetched: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !/^data:/.test(name)),
    targets: [...document.querySelectorAll("nav a")].map(link => document.querySelector(link.hash) !== null),
    outside: [...document.querySelectorAll("[src], link, object, iframe")]
      .filter(element => !/^data:/.test(element.src || "")).length + document.styleSheets.length
      - document.querySelectorAll("style").length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    text: document.querySelector("main").innerText.length,
  };
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    store = write_marked_store(folder / "marked")
    for model in ("reinforce", "random", "soft"):
        train(tiny_config(source=str(store), model=model), folder / "runs" / model)
    report.main(report.Arguments(runs=(folder / "runs",), out=folder / "report.html"))
    return folder / "report.html"


def opened(page, folder, *, width):
    """Return the findings of a headless browser, `width` pixels wide, on a page."""
    asked = folder / "asked.html"
    asked.write_text(page.read_text().replace("</body>", ASKED + "</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=10000"]
    finished = subprocess.run(
        [*command, "--dump-dom", asked.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', finished.stdout, re.S).group(1)))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [1400, 500])
def test_the_page_opens_from_disk(page, tmp_path, width):
    seen = opened(page, tmp_path, width=width)
    assert len(seen["images"]) >= 10
    assert all(complete and natural > 1 and shown > 1 for complete, natural, shown in seen["images"])
    assert seen["fetched"] == []  # files next to the page are not listed there
    assert seen["outside"] == 0
    assert seen["targets"]
    assert all(seen["targets"])
    assert seen["overflow"] <= 0  # wide tables scroll within the page
    assert seen["text"] > 1000
