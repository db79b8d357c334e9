"""Opening TensorRT and TensorRT for RTX: missing libraries, unsuitable drivers, invalid engines."""

import sys
from types import ModuleType

import pytest

from deploy.core.errors import BackendError, MissingPackageError, UsageError
from deploy.support.cuda_driver import Gpu
from deploy.support.tensorrt_library import Library, cuda_major, deserialize, driver_fault, make_logger, open_library

INDEX = "come from NVIDIA's own index"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorrt", ["deploy-toolkit[tensorrt]", INDEX]),
        ("tensorrt-rtx", ["deploy-toolkit[rtx]"]),
        ("auto", ["deploy-toolkit[rtx]", "deploy-toolkit[tensorrt]", INDEX]),
    ],
)
def test_neither_is_installed(monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say that there is none
    with pytest.raises(MissingPackageError) as refused:
        open_library(name)
    hint = refused.value.hint or ""
    assert hint.startswith("pip install ") and all(word in hint for word in words)


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(UsageError, match="auto, tensorrt, tensorrt-rtx"):
        open_library("tensort")


def test_drivers() -> None:
    library = Library(name="tensorrt", module=ModuleType("tensorrt"))
    library.module.__version__ = "11.4.0"  # type: ignore[attr-defined]
    old, new = (Gpu(name="L4", capability="8.9", cuda=cuda) for cuda in ("12.4", "13.2"))
    assert driver_fault(library, new, 13) is None
    assert driver_fault(library, old, None) is None, "wheels that do not say what they need"
    said = driver_fault(library, old, 13)
    assert said is not None and all(part in said for part in ("CUDA 12.4", "tensorrt 11.4.0", "CUDA 13"))
    assert "NVIDIA GPU" in (driver_fault(library, None, 13) or "")


def test_an_invalid_engine_is_refused_with_the_library_s_reason() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    library = open_library("tensorrt-rtx")
    assert cuda_major(library.name) in (12, 13)
    logger = make_logger(library, lambda severity, text: None)
    with pytest.raises(BackendError, match=r"^net\.engine: tensorrt-rtx .*: MALFORMED_ENGINE"):
        deserialize(library, bytes(100), "net.engine", logger)


def test_the_gpus_that_a_library_knows() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    known = open_library("tensorrt-rtx").capabilities
    assert {"7.5", "8.9", "12.0"} <= set(known) and "9.0" not in known
    assert Library(name="tensorrt", module=ModuleType("tensorrt")).capabilities == ()
