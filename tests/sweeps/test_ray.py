"""Sweeps on a real Ray cluster of several nodes on this machine, with nodes that die."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import UsageError
from deploy.report.write import write_report
from deploy.sweeps.spec import Machine, SweepModel, SweepSpec
from deploy.sweeps.sweep import SweepReport, run_sweep
from deploy.sweeps.task import Task
from deploy.tools.verify import verify

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="pip install 'deploy-toolkit[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own warnings

LEFT, RIGHT = "left", "right"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose head belongs to no kind of machine."""
    import ray

    before = signal.getsignal(signal.SIGTERM)  # Ray replaces it
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    store = {"object_store_memory": 200 << 20}
    found = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **store}
    )
    found.of = lambda kind: found.add_node(num_cpus=1, resources={f"node:{kind}": 1}, **store)
    yield found
    ray.shutdown()
    found.shutdown()
    signal.signal(signal.SIGTERM, before)


def _spec(*names: str, **more: Any) -> SweepSpec:
    machines = (Machine(name=LEFT, resource="node:left"), Machine(name=RIGHT, resource="node:right"))
    given: dict[str, Any] = {"backends": ("torch", "onnxruntime"), "threads": 1, "repetitions": 2, "min_time": 0.02}
    return SweepSpec(models=tuple(SweepModel(name=name) for name in names), machines=machines, **{**given, **more})


def _states(report: SweepReport) -> dict[str, str]:
    return {item.task.name: item.state for item in report.outcomes}


@pytest.mark.slow
def test_every_kind_of_machine_and_no_file_is_sent_twice(cluster: Any, trained: Path, store: Path) -> None:
    cluster.of(LEFT)
    cluster.of(RIGHT)
    shutil.copytree(trained, store)
    spec = _spec("lenet5", precisions=("fp32", "int8"), calib="digits", samples=40, data="digits")
    report = run_sweep(spec, executor="ray", address=cluster.address, artifacts=store)
    assert set(_states(report).values()) == {"done", "found"}, _states(report)
    timed = {(item.cell.machine, item.cell.backend, item.cell.precision) for item in report.cells if item.row}
    wanted = {("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")}
    assert timed == {(kind, *cell) for kind in (LEFT, RIGHT) for cell in wanted}
    sent = [(item.node, digest) for item in report.outcomes for digest in item.result["fetched"]]
    assert sent and len(sent) == len(set(sent)), "a file was sent to a node twice"
    assert verify(store).problems == ()
    page = write_report(artifacts=store)
    text = (page.folder / "report.md").read_text()
    assert "## Machines side by side" in text and "left: latency | left: speedup | right: latency" in text
    assert 'colspan="2">left</th>' in page.page.read_text()
    advised = {item["where"].partition(":")[0] for item in page.document["advice"]}
    assert advised == {LEFT, RIGHT}, "there is advice for each kind of machine"
    speedups = [row for row in page.document["rows"] if row["backend"] == "onnxruntime"]
    assert all(row["speedup"] for row in speedups), "relative to PyTorch on the same kind of machine"

    again = run_sweep(spec, executor="ray", address=cluster.address, artifacts=store)
    assert set(_states(again).values()) == {"kept"}


@pytest.mark.slow
def test_nodes_that_die(cluster: Any, store: Path) -> None:
    first, second, only = cluster.of(LEFT), cluster.of(LEFT), cluster.of(RIGHT)
    by_id = {node.node_id: node for node in (first, second, only)}
    seen: list[tuple[str, str]] = []
    killed: set[str] = set()
    where: dict[str, str] = {}

    def watch(task: Task, state: str, text: str) -> None:
        seen.append((task.name, state))
        if state == "begun":
            where[task.name] = text
        now = task.machine == RIGHT or "process" in text
        if state == "doing" and task.machine and now and task.machine not in killed:
            killed.add(task.machine)
            cluster.remove_node(by_id[where[task.name]], allow_graceful=False)

    spec = _spec("zoo/lenet5", repetitions=5)
    report = run_sweep(spec, executor="ray", address=cluster.address, artifacts=store, watch=watch)
    assert killed == {LEFT, RIGHT}
    states = _states(report)
    assert states["bench zoo/lenet5 on left"] == "done" and ("bench zoo/lenet5 on left", "again") in seen
    assert states["bench zoo/lenet5 on right"] == "failed"
    rows = {kind: [item for item in report.cells if item.cell.machine == kind] for kind in (LEFT, RIGHT)}
    assert all(item.row and len(item.row.record.timed) == 5 for item in rows[LEFT])
    for item in rows[RIGHT]:
        assert f" {RIGHT} " in item.reason
        assert item.row is None or f"{len(item.row.record.timed)} of 5 processes" in item.reason
    assert report.exit_code == 1 and verify(store).problems == ()
    text = (write_report(artifacts=store).folder / "report.md").read_text()
    assert ("on right" in text) == any(item.row is None for item in rows[RIGHT])


@pytest.mark.slow
def test_a_missing_cluster(store: Path) -> None:
    with pytest.raises(UsageError, match=r"'127\.0\.0\.1:1'"):
        run_sweep(_spec("zoo/lenet5"), executor="ray", address="127.0.0.1:1", artifacts=store)


def test_missing_machines(cluster: Any, store: Path) -> None:
    spec = _spec("zoo/lenet5", backends=("onnxruntime",))
    report = run_sweep(spec, executor="ray", address=cluster.address, artifacts=store)
    assert len(report.cells) == 2 and not any(item.row for item in report.cells)
    assert all(f" {item.cell.machine} " in item.reason for item in report.cells)
