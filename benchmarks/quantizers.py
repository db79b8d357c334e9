"""Other INT8 quantizers, as scripts for an interpreter that has them: ONNX Runtime's, NNCF, NVIDIA ModelOpt.

Each script takes four arguments: the float ONNX file, an ``.npy`` file with the calibration samples, the file to write,
and a method of calibration, which only ONNX Runtime and ModelOpt read. The network has one input.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ONNXRUNTIME = """
import sys, numpy as np, onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
source, samples, made, method = sys.argv[1:5]
name = onnx.load(source, load_external_data=False).graph.input[0].name
class Reader(CalibrationDataReader):
    def __init__(self): self.left = iter(np.load(samples, mmap_mode="r"))
    def get_next(self):
        sample = next(self.left, None)
        return None if sample is None else {name: np.asarray(sample[None])}
quantize_static(source, made, Reader(), calibrate_method=getattr(CalibrationMethod, method), per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
"""
"""ONNX Runtime's quantizer, with a scale for each channel of the weights."""

MODELOPT = """
import sys, numpy as np, onnx
from modelopt.onnx.quantization import quantize
source, samples, made, method = sys.argv[1:5]
name = onnx.load(source, load_external_data=False).graph.input[0].name
quantize(source, quantize_mode="int8", calibration_data={name: np.load(samples)}, calibration_method=method,
         output_path=made, calibration_eps=["cpu"])
"""

NNCF = """
import sys, numpy as np, nncf
source, samples, made = sys.argv[1:4]
data = np.load(samples, mmap_mode="r")
if made.endswith(".xml"):
    import openvino
    dataset = nncf.Dataset([np.asarray(sample[None]) for sample in data])
    model = nncf.quantize(openvino.Core().read_model(source), dataset, subset_size=len(data))
    openvino.save_model(model, made, compress_to_fp16=False)
else:
    import onnx
    model = onnx.load(source)
    name = model.graph.input[0].name
    dataset = nncf.Dataset([{name: np.asarray(sample[None])} for sample in data])
    onnx.save(nncf.quantize(model, dataset, subset_size=len(data)), made)
"""
"""NNCF with its defaults; the name of the file to write decides: ``.xml`` for OpenVINO, ``.onnx`` for ONNX Runtime."""


def command(python: str, script: str, source: Path, samples: Path, made: Path, method: str = "") -> list[str]:
    """Return the command that quantizes a file with one of the scripts."""
    return [python, "-W", "ignore", "-c", script, str(source), str(samples), str(made), method]


def quantize_by(python: str, script: str, source: Path, samples: Path, made: Path, method: str = "") -> str:
    """Quantize a file; return the last line of the error, or ''."""
    ended = subprocess.run(command(python, script, source, samples, made, method), capture_output=True, text=True)
    lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
    return lines[-1][:200] if ended.returncode else ""
