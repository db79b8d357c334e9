"""Shared by all tests: one thread, no network, a fresh artifacts directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.core.progress import Progress
from tests import exporter_tables

os.environ.setdefault("OMP_NUM_THREADS", "1")

NETS = '''
import torch
from torch import nn


class Two(nn.Module):
    """Two inputs, a dictionary out."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, a, b):
        return {"sum": self.left(a) + self.right(b), "gate": torch.sigmoid(self.left(a))}


class Tokens(nn.Module):
    """Integer tokens of any length, a tuple out."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 3)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        return self.head(hidden.mean(1)), hidden


class Scaled(nn.Module):
    """A keyword input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x, scale=None):
        return self.norm(self.conv(x)) * scale


class Baked(nn.Module):
    """Fixes the batch it was traced with."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x.reshape(x.shape[0], 4)) + torch.arange(float(int(x.shape[0]))).reshape(-1, 1)


class Branching(nn.Module):
    """Looks at its data: torch.export refuses, tracing follows the branch it took."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        if float(x.sum()) > 1e9:
            return self.head(x) * 2
        return self.head(x)


class Forked(nn.Module):
    """Goes one of two ways, by its data."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x) if float(x.sum()) > 0 else -self.head(x)


class Constant(nn.Module):
    """Gives the same whatever it is fed."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x * 0.0)


class Impossible(nn.Module):
    """No exporter can: it leaves the graph."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return torch.linalg.eigvals(self.head(x)[:, :2].T @ self.head(x)[:, :2]).real


class Small(nn.Module):
    """A small network with everything that is folded or found again."""

    def __init__(self, classes=5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, classes)
        self.never_read = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + torch.relu(self.bn2(self.conv2(x)))
        return self.head(self.pool(x).flatten(1))


def seeded(kind, *args):
    torch.manual_seed(0)
    return kind(*args)


def two(): return seeded(Two)
def tokens(): return seeded(Tokens)
def scaled(): return seeded(Scaled)
def branching(): return seeded(Branching)
def forked(): return seeded(Forked)
def baked(): return seeded(Baked)
def constant(): return seeded(Constant)
def impossible(): return seeded(Impossible)
def small(classes=5): return seeded(Small, classes)
def not_a_module(): return 7
def broken(): raise RuntimeError("no such luck")
'''


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


LONG = (
    "optimizing",
    "sweeps",
    "bench",
    "reliability",
    "quantization",
    "precision",
    "exporting",
    "serving",
    "packaging",
)
"""Folders with the longest modules, which run first: at the end, one process would wait for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked ``gpu`` is skipped, with the reason, where there is none; long modules come first."""
    from deploy.support.cuda_driver import gpus

    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(LONG)))
    if not gpus():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no NVIDIA GPU with a driver"))


class Listener(Progress):
    """Remembers what a workflow said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A file with factories of small networks."""
    path = tmp_path / "nets.py"
    path.write_text(NETS, encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An artifacts directory that does not exist yet."""
    return tmp_path / "artifacts"


@pytest.fixture
def artifacts(trained: Path, store: Path) -> Path:
    """A copy of the trained models that a test may spoil."""
    shutil.copytree(trained, store)
    return store


@pytest.fixture
def run(store: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Run the command line as a user would, in this process."""
    from deploy.cli.main import main

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--artifacts", str(store), *map(str, arguments)])
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    yield call


@pytest.fixture(autouse=True)
def kept_tables() -> None:
    """See `tests.exporter_tables`."""
    exporter_tables.keep()


@pytest.fixture(autouse=True)
def no_published_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a network that refuses at once, whatever the machine has."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture(scope="session")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts directory with an export of LeNet-5; tests that change it make a copy."""
    from deploy.cli.main import main

    folder = tmp_path_factory.mktemp("lenet5") / "artifacts"
    with pytest.raises(SystemExit) as ended:
        main(["--artifacts", str(folder), "-q", "export", "zoo/lenet5", "--weights", "none"])
    assert not ended.value.code
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts directory with LeNet-5 trained on digits and exported in two precisions."""
    from deploy.exporting.export import export_model
    from deploy.training.train import train_model

    root = tmp_path_factory.mktemp("trained")
    train_model("lenet5", data="digits", artifacts=root, epochs=6)
    for precision in ("fp32", "fp16"):
        export_model("lenet5", artifacts=root, precision=precision, strategy="trace")
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser; a test that wants one is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()
