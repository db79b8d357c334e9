"""The page without a browser."""

import re
from pathlib import Path

import plotly.graph_objects as go
import pytest

from deploy.report.page import render_page
from deploy.report.plots import dominates, make_plots
from deploy.report.write import write_report
from tests.report.conftest import add_accuracy, add_record

EVIL = "<script>alert(1)</script>"


def test_names_stay_text(tmp_path: Path) -> None:
    add_record(tmp_path)
    document = dict(write_report(artifacts=tmp_path).document)
    row = {**document["rows"][0], "slug": EVIL, "model": EVIL, "command": EVIL}
    advice = [{"where": EVIL, "model": EVIL, "kind": "fastest", "text": EVIL}]
    document |= {
        "rows": [row],
        "advice": advice,
        "skipped": [{"model": EVIL, "backend": "b", "precision": "p", "reason": EVIL}],
    }
    text = render_page(document)
    assert EVIL not in text and text.count("&lt;script&gt;alert(1)") >= 4


def test_the_page_requests_nothing_and_is_small(filled: Path) -> None:
    text = write_report(artifacts=filled).page.read_text()
    assert "default-src 'none'" in text
    outside = re.sub(r'<script type="text/plain".*?</script>', "", text, flags=re.S)
    assert "http:" not in outside and "https:" not in outside and "src=" not in outside.replace("default-src=", "")
    assert len(text) < 2_500_000


def test_the_same_records_give_the_same_files(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for seconds in (1.0e9, 1.1e9):  # the wall clock, which gzip would record
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        monkeypatch.setattr("deploy.report.write.now", lambda: "2026-01-01T00:00:00")
        folder = write_report(artifacts=filled).folder
        texts.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(texts[0]) == 4 and texts[0] == texts[1]


def test_plotly_accepts_every_figure(filled: Path) -> None:
    for batch in (2, 4, 8):
        add_record(filled, "net", "torch", batch=batch, ms=4 * batch**0.5)
    document = dict(write_report(artifacts=filled).document)
    document["sensitivity"] = [{"slug": "net", "target": "openvino", "layers": [{"layer": "conv", "sqnr_db": 31.0}]}]
    point = {"epoch": 1.0, "train_loss": 2.0, "test_loss": 1.9, "train_top1": 0.5, "test_top1": 0.6}
    document["curves"] = {"net": [point, {**point, "epoch": 2.0}]}
    limits = {"threads": 1, "operations": {"fp32": 1e11}, "bandwidth": {"65536": 1e11, "268435456": 1e10}, "by": {}}
    document["limits"] = [limits]
    floor = {"attained": 0.5, "bound": "compute-bound", "unknown": {}}
    document["rows"] = [{**row, "limit": floor} for row in document["rows"]]
    shown = make_plots(document)
    names = {"front", "distributions", "batches", "roofline", "sensitivity", "curves"}
    assert {item.name for item in shown} == names
    for item in shown:
        assert item.text and item.figures
        for figure in item.figures.values():
            go.Figure(figure)  # raises on unknown properties


def test_overlapping_intervals_stay_on_the_front(tmp_path: Path) -> None:
    models = (("fast", 1.0, 900), ("same", 0.95, 905), ("good", 3.0, 990), ("bad", 3.0, 800))
    for index, (slug, ms, right) in enumerate(models):
        weights = str(index) * 64
        add_record(tmp_path, slug, ms=ms, noise=0.05, weights=[weights])
        add_accuracy(tmp_path, slug, {(weights,): (right, 0.0)})
    rows = {row["slug"]: row for row in write_report(artifacts=tmp_path).document["rows"]}
    front = {slug for slug, row in rows.items() if not any(dominates(other, row) for other in rows.values())}
    assert front == {"fast", "same", "good"}


def test_a_missing_plotly_names_the_extra_to_install(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from deploy.core.errors import MissingPackageError

    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingPackageError) as caught:
        write_report(artifacts=filled)
    assert "deploy-toolkit[report]" in str(caught.value.hint)
    assert not (filled / "report").exists()
