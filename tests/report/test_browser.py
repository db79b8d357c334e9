"""The page in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.report.write import write_report
from tests.report.conftest import add_record


@pytest.fixture
def opened(browser: Any, filled: Path) -> Iterator[Any]:
    """The page, with console messages and network requests in ``events``."""
    add_record(filled, "<b>bold</b>".replace("/", "_"), ms=50)
    found = write_report(artifacts=filled)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.events = []
    page.on("console", lambda message: page.events.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.events.append(f"error: {error}"))
    page.on("request", lambda request: page.events.append(f"request: {request.url}"))
    page.goto(found.page.as_uri())
    yield page
    page.close()


def _column(page: Any, name: str) -> list[str]:
    texts: list[str] = page.locator(f"#table tbody tr:visible td.{name}").all_inner_texts()
    return texts


def _latencies(page: Any) -> list[float]:
    """Return the sort keys of the latency column, in row order."""
    cells = page.locator("#table td.latency")
    return [float(cells.nth(index).get_attribute("data-key")) for index in range(cells.count())]


def test_the_first_screen_answers_and_shows_the_chart(opened: Any) -> None:
    opened.set_viewport_size({"width": 1300, "height": 900})
    cards, lines = opened.locator(".answer"), opened.locator(".answer .line")
    assert cards.count() == 3 and lines.count() == 7
    for place in (cards.nth(2), lines.nth(6)):
        box = place.bounding_box()
        assert box["y"] + box["height"] <= 900
    text = cards.nth(1).inner_text().translate({0xA0: " ", 0x2011: "-"})
    assert "INT8 on ONNX Runtime" in text and "× PyTorch" in text and "top-1 98.5 %, -0.5 points (-1.5 to +0.5)" in text
    marks = opened.locator(".answer .line path")
    assert marks.count() == 9, "one for each configuration"
    line, axis = lines.first.locator("svg").first.bounding_box(), opened.locator(".ticks").bounding_box()
    assert abs(line["x"] - axis["x"]) < 1 and abs(line["width"] - axis["width"]) < 1, "numbers stand above their lines"
    assert opened.events == [f"request: {opened.url}"], "one request, for the page itself, and nothing on the console"


def test_every_chart_can_be_made_interactive(opened: Any) -> None:
    places = opened.locator("div.plot")
    assert places.count() >= 2
    names = [places.nth(index).get_attribute("data-plot") for index in range(places.count())]
    for name in names:
        assert opened.locator(f"div.plot[data-plot='{name}'] svg.chart").is_visible()
        opened.locator(f"button[data-plot='{name}']").click()
        opened.locator(f"div.plot[data-plot='{name}'][data-drawn]").wait_for()
        assert opened.locator(f"div.plot[data-plot='{name}'] svg.main-svg").count() >= 1
        assert opened.locator(f"div.plot[data-plot='{name}'] svg.chart").count() == 0
        assert opened.locator(f"div.plot[data-plot='{name}'] .modebar-btn").count() >= 3, "it can be zoomed and saved"
    assert opened.events == [f"request: {opened.url}"]


def test_it_sorts_by_numbers_and_back(opened: Any) -> None:
    head = opened.get_by_role("button", name="latency", exact=True)
    before = _column(opened, "model")
    head.click()
    keys = [
        float(value) for value in opened.eval_on_selector_all("td.latency", "cells => cells.map(c => c.dataset.key)")
    ]
    assert keys == sorted(keys)
    assert opened.locator("th.latency").get_attribute("aria-sort") == "ascending"
    head.press("Enter")
    keys = [
        float(value) for value in opened.eval_on_selector_all("td.latency", "cells => cells.map(c => c.dataset.key)")
    ]
    assert keys == sorted(keys, reverse=True)
    opened.get_by_role("button", name="model").click()
    assert sorted(_column(opened, "model")) == sorted(before)


def test_it_filters_by_words_and_choice(opened: Any) -> None:
    opened.locator("input[name=text]").fill("wide int8")
    assert _column(opened, "model") == ["wide"]
    assert opened.locator("#count").inner_text() == "1 of 9 rows"
    opened.locator("input[name=text]").fill("")
    opened.locator("select[name=backend]").select_option("openvino")
    assert set(_column(opened, "backend")) == {"openvino"}


def test_evidence_opens_with_links_and_the_command(opened: Any) -> None:
    opened.locator("#table details").first.locator("summary").click()
    shown = opened.locator("#table details[open] ul")
    shown.wait_for()
    assert "raw samples" in shown.inner_text() and "deploy bench" in shown.locator("code").inner_text()
    assert (Path(opened.url.removeprefix("file://")).parent / shown.locator("a").first.get_attribute("href")).is_file()


def test_a_name_of_markup_stays_text(opened: Any) -> None:
    assert "<b>bold<_b>" in _column(opened, "model")
    assert opened.locator("#table td.model b").count() == 0


def test_dark_and_light(opened: Any) -> None:
    def ground() -> str:
        color: str = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        return color

    before = ground()
    opened.locator("#theme").click()
    assert ground() != before
    opened.locator("#theme").click()
    assert ground() == before


def test_a_phone_needs_no_horizontal_scrolling(browser: Any, filled: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(write_report(artifacts=filled).page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("button[data-plot]").first.click()
    page.locator("div.plot[data-drawn]").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_tables_and_charts_need_no_scripts(browser: Any, filled: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(write_report(artifacts=filled).page.as_uri())
    assert page.locator("#table tbody tr").count() == 8
    assert page.locator("#filters").is_hidden()
    assert page.locator(".answer .line path").count() == 8
    charts = page.locator("div.plot svg.chart")
    assert charts.count() >= 2
    for index in range(charts.count()):
        area = charts.nth(index).bounding_box()
        assert area["width"] > 300 and area["height"] > 100
        for mark in charts.nth(index).locator("path").all():
            box = mark.bounding_box()
            middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            assert area["x"] <= middle[0] <= area["x"] + area["width"]
            assert area["y"] <= middle[1] <= area["y"] + area["height"]
    assert page.locator("button[data-plot]").first.is_hidden()
    context.close()


def test_sorting_and_filtering_cover_hidden_rows(browser: Any, tmp_path: Path) -> None:
    for index in range(130):
        add_record(tmp_path, f"net{index:03}", ms=1000 - index, processes=2, samples=3)
    page = browser.new_page()
    page.goto(write_report(artifacts=tmp_path).page.as_uri())
    assert page.locator("#count").inner_text() == "130 of 130 rows, the first 100 shown"
    page.get_by_role("button", name="latency").click()
    assert _column(page, "model")[0].startswith("net12"), "the fastest rows were hidden before"
    page.locator("input[name=text]").fill("net127")
    assert _column(page, "model") == ["net127"]
    page.locator("input[name=text]").fill("")
    page.get_by_role("button", name="show all rows").click()
    assert len(_column(page, "model")) == 130
    page.close()
