"""The probe of the CUDA driver, and the energy of the GPU that runs, with a driver that is made for the test."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.support.cuda_driver import gpu_uuid, gpus
from tests.fake_driver import fake_driver

ROOT = Path(__file__).parents[2]

NVML = """
def nvmlInit(): pass
def nvmlDeviceGetHandleByIndex(index): return "the first of the machine"
def nvmlDeviceGetHandleByUUID(uuid): return uuid
reading = 0
def nvmlDeviceGetTotalEnergyConsumption(device):
    global reading
    reading += {"GPU-12121212-1212-1212-1212-121212121212": 7000}.get(device, 1)
    return reading
"""

ENERGY = """
import json, sys, time, types
from deploy.core.runner import Runner
class Fast(Runner):
    gpu = json.loads(sys.argv[1])
    inputs = outputs = ()
    def run(self, feeds):
        time.sleep(0.001)
        return {}
module = types.ModuleType("fast")
module.open = lambda path, **options: Fast()
sys.modules["fast"] = module
from deploy.bench.worker import TimingWorker
worker = TimingWorker("fast")
worker.open({}, "x.onnx", None, {"provider": "none"})
reply, _ = worker.time({}, int(float(sys.argv[2]) * 1e9), 10)
print(json.dumps(reply["joules"]))
"""


def ran(code: str, *arguments: str, environment: Mapping[str, str]) -> Any:
    """Run Python in a child process and return what it printed."""
    path = ":".join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_driver_is_asked_for_the_visible_gpus_in_their_order(tmp_path: Path) -> None:
    code = """
import dataclasses, json
from deploy.support.cuda_driver import gpu_uuid, gpus
print(json.dumps([[dataclasses.asdict(item) for item in gpus()], [gpu_uuid(0), gpu_uuid(1)]]))
"""
    found, uuids = ran(code, environment=fake_driver(tmp_path, "NVIDIA L4", "8.9", order=(2, 0)))
    assert found == [{"name": "NVIDIA L4", "capability": "8.9", "cuda": "99.0"}] * 2
    assert uuids == [f"GPU-{digits * 4}-{digits * 2}-{digits * 2}-{digits * 2}-{digits * 6}" for digits in ("12", "10")]


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_driver() -> None:
    assert gpus() == () and gpu_uuid(0) is None


@pytest.mark.parametrize(("gpu", "seconds", "joules"), [("0", "1.0", 7.0), ("1", "1.0", 0.001)])
def test_energy_is_that_of_the_gpu_that_runs(tmp_path: Path, gpu: str, seconds: str, joules: float) -> None:
    environment = fake_driver(tmp_path, order=(2, 0))
    (tmp_path / "pynvml.py").write_text(NVML, encoding="utf-8")
    assert ran(ENERGY, gpu, seconds, environment={**environment, "PYTHONPATH": str(tmp_path)}) == joules


@pytest.mark.parametrize(("gpu", "seconds"), [("null", "1.0"), ("0", "0.01")])
def test_no_energy_of_a_cpu_or_in_a_window_shorter_than_the_counter_s_steps(
    tmp_path: Path, gpu: str, seconds: str
) -> None:
    environment = fake_driver(tmp_path)
    (tmp_path / "pynvml.py").write_text(NVML, encoding="utf-8")
    assert ran(ENERGY, gpu, seconds, environment={**environment, "PYTHONPATH": str(tmp_path)}) is None
