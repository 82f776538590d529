"""The page in a headless Chromium: what a reader can do with it, and that a stranger's run executes nothing.

These need Chromium and its driver, and are skipped without.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import Browser, find_chromium
from helpers.runs import SYNTHETIC_SEARCH, SyntheticWriter, synthetic_plan, write_run

from raysearch.reports.page import write_html
from raysearch.schema.yaml_source import load_yaml
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="needs chromium and chromedriver"),
]
CLIPPED = """
const clipped = [];
for (const svg of document.querySelectorAll("svg.chart")) {
  const box = svg.getBoundingClientRect();
  if (!box.width) continue;
  for (const text of svg.querySelectorAll("text")) {
    const inner = text.getBoundingClientRect();
    const isAside = inner.left < box.left - 2 || inner.right > box.right + 2;
    if (isAside || inner.top < box.top - 3 || inner.bottom > box.bottom + 3)
      clipped.push(`${svg.id} ${svg.getAttribute("aria-label")}: ${text.textContent}`);
  }
}
return clipped;
"""
OVERLAPPING = """
const found = [];
for (const svg of document.querySelectorAll("svg.chart:not(.overlay)")) {
  const texts = [...svg.querySelectorAll("text:not([transform])")];
  const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width);
  boxes.forEach(([a, one], i) => boxes.slice(i + 1).forEach(([b, two]) => {
    const wide = Math.min(one.right, two.right) - Math.max(one.left, two.left);
    const high = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
    if (wide > 1 && high > 4) found.push(`${svg.getAttribute("aria-label")}: ${a} / ${b}`);
  }));
}
return found;
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
FIRST_CELLS = """
return [...document.querySelectorAll("#leaderboard-table tbody tr")].map((row) => row.cells[arguments[0]].textContent)
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(open_run(write_run(tmp_path_factory.mktemp("runs") / "synthetic", trials=40)))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(window: Browser, page: Path) -> Browser:
    """A window of 1300 pixels with the page, whose filters are not set."""
    window.set_dark(dark=False)
    window.resize(1300, 900)
    window.open("about:blank")
    window.open(page.as_uri())
    window.messages(), window.requests()
    window.wait("document.querySelectorAll('#leaderboard-table tbody tr').length > 10")
    return window


def centre(browser: Browser, selector: str, *, place: int = 0) -> tuple[float, float]:
    """Scrolls an element into the window, and returns where its centre is."""
    script = """
    const node = document.querySelectorAll(arguments[0])[arguments[1]];
    node.scrollIntoView({ block: "center", behavior: "instant" });
    const box = node.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
    """
    x, y = browser.run(script, selector, place)
    return x, y


def press_button(browser: Browser, selector: str, place: int = 0) -> None:
    browser.click(*centre(browser, selector, place=place))


def matching(browser: Browser) -> int:
    """Returns how many configurations match the filters, as the page says."""
    return int(browser.run("return document.querySelector('.count').textContent").split()[0])


def test_heads_sort_the_leaderboard_by_pointer_and_key(browser: Browser) -> None:
    place = browser.run(
        "return [...document.querySelectorAll('#leaderboard-table th')].findIndex((head) => head.textContent === 'lr')"
    )
    head = f"#leaderboard-table th:nth-child({place + 1})"
    press_button(browser, f"{head} button")
    values = [float(text.replace("\N{MINUS SIGN}", "-")) for text in browser.run(FIRST_CELLS, place)]
    assert values == sorted(values, reverse=True)
    assert browser.run(f"return document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    browser.run(f"document.querySelector('{head} button').focus()")
    browser.press("Enter")
    values = [float(text.replace("\N{MINUS SIGN}", "-")) for text in browser.run(FIRST_CELLS, place)]
    assert values == sorted(values)
    assert browser.run("return document.querySelectorAll('[aria-sort=ascending]').length") == 1


def test_words_arm_and_state_filter_the_rows(browser: Browser) -> None:
    every = matching(browser)
    browser.run("document.querySelector('#filter').focus()")
    browser.press(*"fine_tune")
    assert matching(browser) == 4
    browser.run("[...document.querySelectorAll('button')].find((each) => each.textContent === 'Clear filters').click()")
    assert matching(browser) == every
    browser.run("document.querySelector('.boxes input[value=stopped]').click()")
    states = browser.run(FIRST_CELLS, 3)
    assert not any("stopped" in state for state in states)
    assert matching(browser) < every


def test_brush_filters_leaderboard_and_curves(browser: Browser) -> None:
    every = matching(browser)
    count = "return document.querySelectorAll('.parallel .strip').length"
    last = browser.run(count) - 1
    x, y = centre(browser, ".parallel .strip", place=last)
    ink = """
    const context = document.querySelector('.curves canvas').getContext('2d');
    return context.getImageData(0, 0, 1000, 300).data.filter((part, i) => i % 4 === 3 && part).length;
    """
    drawn = browser.run(ink)
    browser.drag(x, y - 60, x, y - 130)  # the upper end of the scores
    count_after = matching(browser)
    assert 0 < count_after < every
    scores = [float(text) for text in browser.run(FIRST_CELLS, 1)]
    assert len(scores) == count_after
    time.sleep(0.2)
    assert browser.run(ink) < drawn
    assert "to" in browser.run(f"return document.querySelectorAll('.parallel [role=slider]')[{2 * last}].ariaValueText")
    browser.click(x, y)  # a click keeps all
    assert matching(browser) == every


def test_keys_move_the_ends_of_an_axis(browser: Browser) -> None:
    every = matching(browser)
    browser.run("document.querySelectorAll('.parallel [role=slider]')[4].focus()")  # the lower end of k, an integer
    before = browser.run("return document.activeElement.getAttribute('aria-label')")
    browser.press("Up", "Up")
    assert matching(browser) < every
    assert browser.run("return document.activeElement.getAttribute('aria-label')") == before
    browser.press("Escape")
    assert matching(browser) == every


@pytest.mark.parametrize("part", [".parallel svg", ".curves svg", "#chart-best-nth"])
def test_pointer_names_a_trial(browser: Browser, part: str) -> None:
    x, y = centre(browser, part)
    if part.startswith("#"):
        x, y = browser.run(
            """
            const svg = document.querySelector(arguments[0]), box = svg.getBoundingClientRect();
            const [, x, y] = svg.querySelector("[data-trials]").getAttribute("d").match(/M([-\\d.]+) ([-\\d.]+)/);
            const scale = box.width / svg.viewBox.baseVal.width;
            return [box.left + x * scale, box.top + y * scale];
            """,
            part,
        )
    for place in range(40):  # a line is met somewhere from top to bottom
        browser.point(x, y if part.startswith("#") else y - 120 + 6 * place)
        if not browser.run("return document.getElementById('tip').hidden"):
            break
    words = browser.run("return document.getElementById('tip').textContent")
    assert re.match(r"(search|fine_tune)-\d{4}-s\d+-[0-9a-f]{6}macro_f1 0\.\d{4}", words)


def test_view_of_a_trial_has_differences_curves_weights_events(browser: Browser, page: Path) -> None:
    browser.run("""
    const links = [...document.querySelectorAll('#leaderboard-table tr:not(.best) a')];
    links.find((link) => link.textContent.startsWith('search')).focus();
    """)
    trial = browser.run("return document.activeElement.textContent")
    browser.press("Enter")
    browser.wait("!document.getElementById('trial').hidden")
    assert browser.run("return document.getElementById('report').hidden")
    assert browser.run("return document.activeElement.tagName") == "H1"
    heads = browser.run("return [...document.querySelectorAll('#trial h2')].map((head) => head.textContent)")
    assert heads[:5] == ["Configuration", "Curves", "Weights", "Signal and noise of objectives", "Events"]
    assert browser.run("return document.title").startswith(trial)
    shown = browser.run("""
    const rows = [...document.querySelectorAll('#trial tr.differs')];
    return rows.map((row) => [...row.cells].map((cell) => cell.textContent));
    """)
    assert shown
    assert all(value != best for _, _, value, best, _ in shown)
    captions = browser.run("return [...document.querySelectorAll('#trial figcaption')].map((each) => each.textContent)")
    assert captions[:3] == ["Score: macro_f1", "Loss of the end task", "Auxiliary loss, weighted"]
    assert browser.run("return document.querySelectorAll('#signal-table tbody tr').length") == 24
    assert browser.run(OVERFLOW) == 0
    browser.press("Escape")
    browser.wait("!document.getElementById('report').hidden")
    browser.open(f"{page.as_uri()}#trial={trial}")  # a link to it
    browser.wait("!document.getElementById('trial').hidden")
    assert browser.messages() == []


def test_arrow_keys_move_between_rows(browser: Browser) -> None:
    browser.run("document.querySelector('#leaderboard-table tbody a').focus()")
    names = browser.run("return [...document.querySelectorAll('#leaderboard-table tbody a')].map((a) => a.textContent)")
    browser.press("Down", "Down", "Up")
    assert browser.run("return document.activeElement.textContent") == names[1]


def test_yaml_of_a_row_is_its_configuration(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.devtools("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    press_button(browser, "#leaderboard-table tr.best button")
    browser.wait("document.getElementById('announcement').textContent.includes('copied')")
    trial = browser.run("return document.querySelector('#leaderboard-table tr.best a').textContent")
    text = browser.devtools("Runtime.evaluate", expression="navigator.clipboard.readText()", awaitPromise=True)
    source = text["result"]["value"]
    rows = open_run(page.parent).trials().to_pylist()
    params = next(json.loads(row["params"]) for row in rows if row["trial_id"] == trial)
    (tmp_path / "fragment.yaml").write_text(source)
    fragment = load_yaml(tmp_path / "fragment.yaml")[0].value
    assert fragment["method"] == {
        "weighting": "aang",
        "surgery": params["surgery"],
        "schedule": "joint",
    }
    assert fragment["space"] == "aang_td"
    assert fragment["settings"] == {name: value for name, value in params.items() if name != "surgery"}


def test_csv_has_the_rows_that_match(browser: Browser) -> None:
    browser.run("document.querySelector('.boxes input[value=failed]').click()")
    press_button(browser, "#save-csv")
    file = browser.downloads / "synthetic-trials.csv"
    for _ in range(200):
        if file.exists() and file.stat().st_size:
            break
        time.sleep(0.05)
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert len(rows) == matching(browser)
    assert {"trial", "macro_f1", "state", "lr", "include.transform.mask"} <= rows[0].keys()
    assert "failed" not in {row["state"] for row in rows}


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (390, False), (390, True), (820, False)])
def test_nothing_is_clipped_or_overlaps(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.resize(width, 844, phone=width < 500)
    browser.set_dark(dark=dark)
    browser.open("about:blank")
    browser.open(page.as_uri())
    browser.wait("document.querySelectorAll('.parallel text').length > 10")
    assert browser.run(OVERFLOW) == 0
    assert browser.run(CLIPPED) == []
    assert browser.run(OVERLAPPING) == []
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 26)" if dark else "rgb(246, 245, 242)"
    )
    assert browser.messages() == []
    assert {request.split(":")[0] for request in browser.requests()} <= {"file", "about", "chrome", "data"}


def test_static_page_is_whole_without_script(tmp_path: Path, page: Path) -> None:
    with Browser(tmp_path, script=False) as browser:
        browser.resize(1300, 900)
        browser.open(page.as_uri())
        node = browser.devtools("DOM.getDocument")["root"]["nodeId"]

        def is_shown(selector: str) -> bool:
            node_id = browser.devtools("DOM.querySelector", nodeId=node, selector=selector)["nodeId"]
            try:
                browser.devtools("DOM.getBoxModel", nodeId=node_id)
            except AssertionError:
                return False
            return True

        assert is_shown("#leaderboard table")
        assert is_shown("#curves svg")
        assert not is_shown("#explore")


HOSTILE = "</script><img src=x onerror='window.broken=1'>"


def test_hostile_run_executes_nothing(tmp_path: Path, window: Browser) -> None:
    folder = tmp_path / "hostile"
    dimensions = {
        "surgery": {"choice": ["none", HOSTILE]},
        HOSTILE: {"choice": [HOSTILE, "]]>{{7*7}}"]},
        "lr": {"float": [1e-4, 2e-3]},
    }
    search = {**SYNTHETIC_SEARCH, "dimensions": dimensions, "name": HOSTILE}
    search["task"] = {"name": HOSTILE, "metric": "<!--<script>"}
    with Ledger.open(folder) as ledger:
        writer = SyntheticWriter(ledger, 0, moving=True)
        writer.declare(search)
        for number in range(6):
            params = {"lr": 1e-3 * (number + 1), HOSTILE: (HOSTILE, "]]>{{7*7}}")[number % 2], "surgery": "none"}
            writer.trial(synthetic_plan("search", number, 0, "search", params), "failed" if number == 3 else "complete")
        ledger.event(HOSTILE, f"{synthetic_plan('search', 0, 0, 'search', {'lr': 1e-3}).trial_id}", detail={HOSTILE: 1})
    page = write_html(open_run(folder))
    assert "<img" not in page.read_text()
    window.resize(1300, 900)
    window.open(page.as_uri())
    window.wait("document.querySelectorAll('#leaderboard-table tbody tr').length === 6")
    x, y = centre(window, ".parallel svg")
    for place in range(12):
        window.point(x, y - 120 + 20 * place)
    window.run("document.querySelector('#leaderboard-table tbody a').click()")
    window.wait("!document.getElementById('trial').hidden")
    assert window.run("return window.broken") is None
    assert window.run("return document.images.length") == 0
    assert HOSTILE in window.run("return document.getElementById('trial').textContent")
    assert window.messages() == []


def test_policy_permits_the_pages_own_script_alone(browser: Browser) -> None:
    added = """
    const script = document.createElement("script");
    script.textContent = "window.broken = 1";
    document.body.append(script);
    return window.broken;
    """
    assert browser.run(added) is None
    assert any("Content Security Policy" in message for message in browser.messages())
