"""Faults seeded into the TensorRT runner: the sequences on the fake runtime must find them.

Each fault replaces one piece of the source; the tests run a copy with the fault. Nineteen of twenty must be found.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from tests.backends.engine_sequences import LIBRARIES, SEQUENCES, Desk

RUNNER, PROFILES, CAPTURE = (
    "deploy.backends.tensorrt.runner",
    "deploy.backends.tensorrt.profiles",
    "deploy.support.cuda_graph",
)


@dataclass(frozen=True)
class Fault:
    """A fault: the module, and what it replaces by what."""

    name: str
    module: str
    before: str
    after: str


FAULTS = (
    Fault(
        "null address of an empty tensor", RUNNER, "item.name, buffer.address)", "item.name, buffer.tensor.data_ptr())"
    ),
    Fault("no alignment", RUNNER, "start = -memory.data_ptr() % ALIGNMENT", "start = 0"),
    Fault("alignment of 64 bytes", RUNNER, "ALIGNMENT = 256", "ALIGNMENT = 64"),
    Fault("shapes before the profile", RUNNER, "            self._select(profile)\n", ""),
    Fault("the profile is not remembered", RUNNER, "        self._profile = profile\n", ""),
    Fault(
        "the profile with the furthest optimum",
        PROFILES,
        "return min(accepting, key=distance)",
        "return accepting[-1] + 1",
    ),
    Fault("the first profile always", PROFILES, "return min(accepting, key=distance)", "return 0"),
    Fault(
        "no run before the capture",
        RUNNER,
        "        self._enqueue()\n        self._stream.synchronize()\n        if",
        "        if",
    ),
    Fault(
        "a stale graph after a failed bind",
        RUNNER,
        "graph, self._graph, self._is_bound = self._graph, None, False",
        "graph, self._is_bound = self._graph, False",
    ),
    Fault(
        "a launch after a failed bind",
        RUNNER,
        "graph, self._graph, self._is_bound = self._graph, None, False",
        "graph, self._graph = self._graph, None",
    ),
    Fault("stale values on the CPU", RUNNER, "is_stale = item.on_host and not", "is_stale = False and not"),
    Fault("a capture at every bind", RUNNER, "if changed or graph is None else graph", "if True else graph"),
    Fault("no capture for new shapes", RUNNER, "if changed or graph is None else graph", "if graph is None else graph"),
    Fault(
        "buffers change under a run",
        RUNNER,
        "            self._stream.synchronize()  # a launched run may still read the buffers\n",
        "",
    ),
    Fault(
        "synchronize does not wait",
        RUNNER,
        'runs."""\n        with self._on_gpu("running"):\n            self._stream.synchronize()',
        'runs."""',
    ),
    Fault(
        "launches on the default stream", RUNNER, "execute_async_v3(self._stream.cuda_stream)", "execute_async_v3(0)"
    ),
    Fault("host tensors on the GPU", RUNNER, 'torch.device("cpu") if item.on_host else self._device', "self._device"),
    Fault(
        "old buffers for new shapes",
        RUNNER,
        "is_new = buffer is None or tuple(buffer.tensor.shape) != shape",
        "is_new = buffer is None",
    ),
    Fault("captures in global mode", CAPTURE, 'capture_error_mode="thread_local"', 'capture_error_mode="global"'),
    Fault("the error of a capture is hidden", CAPTURE, "        if not failures:\n            raise", "        raise"),
    Fault(
        "the graph is not replayed", RUNNER, 'if self._graph is None or self._library.name != "tensorrt":', "if True:"
    ),
    Fault("RTX without a graph is accepted", RUNNER, "if self._no_graph:", "if False:"),
    Fault(
        "the launch's success is not read",
        RUNNER,
        "if not self._context.execute_async_v3(self._stream.cuda_stream):",
        "if self._context.execute_async_v3(self._stream.cuda_stream) is None:",
    ),
    Fault(
        "events inside the launch",
        RUNNER,
        "            self._start()\n\n    def synchronize",
        "            self._events[0].record()\n            self._start()\n\n    def synchronize",
    ),
    Fault(
        "GPU time without the run",
        RUNNER,
        "            self._events[0].record()\n            self._start()\n",
        "            self._start()\n            self._events[0].record()\n",
    ),
    Fault("unknown sizes are bound", PROFILES, "if any(size < 0 for size in shape):", "if False:"),
    Fault(
        "outputs are views of the buffers",
        RUNNER,
        "np.array(self._buffers[item.name].tensor.cpu().numpy())",
        "self._buffers[item.name].tensor.numpy()",
    ),
    Fault(
        "the runtime cache is not written",
        RUNNER,
        "        write_file(Path(str(self._options.runtime_cache)), bytes(memoryview(content)))\n",
        "",
    ),
    Fault("scalars become vectors", RUNNER, 'np.asarray(value, order="C")', "np.ascontiguousarray(value)"),
)


def with_fault(fault: Fault) -> ModuleType:
    """Return a copy of the runner with a fault in it or in what it imports."""
    copies: dict[str, ModuleType] = {}
    for name in (PROFILES, CAPTURE, RUNNER):
        original = import_module(name)
        source = Path(str(original.__file__)).read_text(encoding="utf-8")
        if fault.module == name:
            assert source.count(fault.before) == 1, f"{fault.name}: the source has changed"
            source = source.replace(fault.before, fault.after)
        copies[name] = copy = ModuleType(f"{name}_with_a_fault")
        sys.modules[copy.__name__] = copy
        exec(compile(source, f"{original.__file__} with {fault.name}", "exec"), vars(copy))
        if name == RUNNER:
            for imported in (PROFILES, CAPTURE):
                vars(copy).update(
                    {
                        key: value
                        for key, value in vars(copies[imported]).items()
                        if key in vars(copy) and getattr(value, "__module__", "") == copies[imported].__name__
                    }
                )
    return copies[RUNNER]


def found_by(fault: Fault, folder: Path) -> str:
    """Return the first sequence that fails with a fault; empty if none does."""
    module = with_fault(fault)
    for sequence in SEQUENCES:
        for library in LIBRARIES:
            for graph in (False, True):
                if _fails(sequence, Desk(module, library, graph, folder)):
                    return sequence.__name__
    return ""


def _fails(sequence: Callable[[Desk], None], desk: Desk) -> bool:
    try:
        sequence(desk)
    except BaseException as exc:  # also the fake's own, which are no `Exception`
        if isinstance(exc, KeyboardInterrupt):
            raise
        return True
    return False


@pytest.mark.slow
def test_seeded_faults_are_found(tmp_path: Path) -> None:
    found = {fault.name: found_by(fault, tmp_path) for fault in FAULTS}
    missed = [name for name, sequence in found.items() if not sequence]
    assert len(found) == len(FAULTS) >= 20 and len(missed) <= 0.05 * len(FAULTS), missed


def test_the_copy_without_a_fault_is_right(tmp_path: Path) -> None:
    assert found_by(Fault("none", "", "", ""), tmp_path) == ""
