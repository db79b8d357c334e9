"""`check` on another device: a GPU runs its own kernels, and without one nothing is run in its place."""

from pathlib import Path

import pytest
import torch

from deploy import check, export_model
from deploy.core.errors import BackendError, UsageError
from deploy.support.cuda_driver import gpus


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(x).sigmoid()
        return result


def exported(folder: Path, precision: str) -> tuple[torch.nn.Module, Path]:
    module = Small()
    made = export_model(
        module, inputs={"x": torch.randn(2, 4)}, dynamic=["batch"], artifacts=folder, precision=precision
    )
    return module, made.artifact.path


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_gpu_the_cpu_does_not_answer_for_it(tmp_path: Path) -> None:
    module, path = exported(tmp_path, "fp32")
    with pytest.raises(BackendError, match="CUDA"):
        check(module, inputs={"x": torch.randn(2, 4)}, onnx=path, artifacts=tmp_path, device="cuda")


@pytest.mark.parametrize(("options", "words"), [({"backend": "openvino"}, "openvino"), ({"locate_fault": True}, "CPU")])
def test_what_does_not_run_on_a_gpu_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check("zoo/lenet5", device="cuda", **options)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gpu_passes_a_right_file(precision: str, tmp_path: Path) -> None:
    module, path = exported(tmp_path, precision)
    report = check(module, inputs={"x": torch.randn(2, 4)}, onnx=path, artifacts=tmp_path, device="cuda")
    assert (report.parity.verdict, report.device) == ("pass", "cuda")
