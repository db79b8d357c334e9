"""Every TensorRT attribute that the code uses exists in both libraries.

TensorRT's bindings (package ``tensorrt-cu13-bindings``) install without its libraries. A separate process loads them
with stub libraries, which is enough to look up the attributes of the classes.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.backends import fake_tensorrt

ROOT = Path(__file__).parents[2]
VARIABLES = {
    "exporters/onnx_to_tensorrt.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "config": "IBuilderConfig",
        "parser": "OnnxParser",
        "fault": "ParserError",
        "profile": "IOptimizationProfile",
    },
    "exporters/tensorrt_network.py": {
        "network": "INetworkDefinition",
        "layer": "ILayer",
        "tensor": "ITensor",
        "convolution": "IConvolutionLayer",
    },
    "deploy/support/tensorrt_library.py": {"runtime": "Runtime"},
    "deploy/backends/tensorrt/runner.py": {
        "engine": "ICudaEngine",
        "_context": "IExecutionContext",
        "runtime_config": "IRuntimeConfig",
        "runtime_cache": "IRuntimeCache",
        "cache": "IRuntimeCache",
    },
    "deploy/engines/inspect.py": {"engine": "ICudaEngine"},
}
"""Classes of the variables in each file that uses a library; the test reads the attributes from the source."""

UNSEEN = {
    "ITimingCache.serialize",
    "IBuilderConfig.create_timing_cache",
    "EngineInspector.get_engine_information",
    "IDeconvolutionLayer.kernel_size_nd",
    "IDeconvolutionLayer.num_groups",
    "IDeconvolutionLayer.num_output_maps",
    "ITensor.dtype",
    "ITensor.shape",
    "DataType.itemsize",
    "IProgressMonitor.phase_start",
    "IProgressMonitor.step_complete",
    "IProgressMonitor.phase_finish",
    "ILogger.log",
    "DataType.FLOAT",
    "DataType.HALF",
    "DataType.INT8",
    "DataType.UINT8",
    "DataType.INT32",
    "DataType.INT64",
    "DataType.BOOL",
    "LayerType.DEQUANTIZE",
    "LayerType.MATRIX_MULTIPLY",
}
"""Used on results of calls, overridden, or compared by name: not found by reading the source."""

RTX_ONLY = {
    "ComputeCapability",
    "ComputeCapability.__members__",
    "CudaGraphStrategy",
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "EngineInvalidityDiagnostics",
    "EngineInvalidityDiagnostics.__members__",
    "EngineValidity",
    "EngineValidity.INVALID",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
    "Runtime.get_engine_validity",
}
"""Used only with TensorRT for RTX."""

ENTRY_POINTS = {
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
}
"""Symbols that the bindings need; other versions need more, which the loader's errors name."""

LOOKUP = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
def exists(name):
    value = module
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True
print(json.dumps({"version": module.__version__, "exists": {name: exists(name) for name in json.load(sys.stdin)}}))
"""

COMPARE = """
import importlib, json, sys
sys.path.insert(0, "")
from tests.backends.fake_tensorrt import unknown_calls
print(json.dumps(unknown_calls(importlib.import_module(sys.argv[1]))))
"""


def used() -> set[str]:
    """Return every ``Class.attribute`` and every attribute of the module that the code uses."""
    found = set(UNSEEN)
    for file, variables in VARIABLES.items():
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            *_, holder = ast.unparse(node.value).split(".")
            if holder in variables:
                found.add(f"{variables[holder]}.{node.attr}")
            of_module = re.fullmatch(r"(?:.*\.)?module\.(\w+(?:\.\w+)?)", ast.unparse(node))
            if of_module and of_module[1] != "__version__":
                found.add(of_module[1])
    return found


def look_up(module: str, names: set[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOOKUP, module],
        input=json.dumps(sorted(names)),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def write_stubs(folder: Path, major: int, names: set[str]) -> None:
    """Compile libraries that export ``names``, each a function that returns a null pointer."""
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in sorted(names)))
    for library in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
        target = folder / f"{library}.so.{major}"
        line = ["cc", "-shared", "-fPIC", "-o", str(target), str(source), f"-Wl,-soname,{target.name}"]
        subprocess.run(line, check=True, capture_output=True)


def test_attributes_are_read_from_the_source() -> None:
    names = used()
    assert {"Builder", "BuilderFlag.TF32", "INetworkDefinition.get_layer", "ICudaEngine.get_tensor_mode"} <= names
    assert {"IExecutionContext.execute_async_v3", "TensorIOMode.INPUT", "ParserError.node_operator"} <= names
    assert names >= RTX_ONLY, "every exception is used"


def test_tensorrt(tmp_path: Path) -> None:
    if find_spec("tensorrt_bindings") is None:
        pytest.skip("the bindings are not installed: pip install tensorrt-cu13-bindings (Linux x86-64)")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) for the stub libraries")
    from importlib.metadata import version

    major = int(version("tensorrt-cu13-bindings").partition(".")[0])
    symbols = set(ENTRY_POINTS)
    for _ in range(20):
        write_stubs(tmp_path, major, symbols)
        done = look_up("tensorrt_bindings", used(), LD_LIBRARY_PATH=str(tmp_path))
        missing_symbol = re.search(r"undefined symbol: (\w+)", done.stderr)
        if missing_symbol is None:
            break
        symbols.add(missing_symbol[1])
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    missing = {name for name, exists in answer["exists"].items() if not exists}
    assert missing == RTX_ONLY, f"TensorRT {answer['version']}"
    compared = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPARE, "tensorrt_bindings"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert compared.returncode == 0, compared.stderr
    assert set(json.loads(compared.stdout)) == fake_tensorrt.RTX_ONLY, "what the fake has and TensorRT lacks"


def test_tensorrt_for_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    done = look_up("tensorrt_rtx", used())
    assert done.returncode == 0, done.stderr
    assert [name for name, exists in json.loads(done.stdout)["exists"].items() if not exists] == []
