"""One model of a benchmark: its files and its module, found in the artifacts directory or made on demand.

Exporting, quantizing and PyTorch are imported only where something has to be made or PyTorch runs the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.artifact import Artifact
from deploy.core.backend import ENGINE, ONNX, backends
from deploy.core.errors import ArtifactError, ExportError, UsageError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.support.lone_file import open_artifact
from deploy.support.lookup import EXPORTS, newest_variants
from deploy.support.onnx_child import examine

if TYPE_CHECKING:
    from deploy.core.model import Model

INT8 = "int8"
PRECISIONS = ("fp32", "fp16", "bf16", INT8, "fp64")


class TimedModel:
    """A model, an ONNX file, or an engine with a manifest, that is timed.

    Missing files are made, INT8 files with the calibration data ``calib``. The folder ``scratch`` is for weight files
    and must live as long as the cells are timed.
    """

    def __init__(
        self, request: ModelRequest, store: Store, scratch: Path, calib: str | None, progress: Progress
    ) -> None:
        self.name = request.name
        self.is_file = Path(request.name).suffix in (".onnx", ".engine")
        if self.is_file and not Path(request.name).is_file():
            raise ArtifactError(f"{request.name}: no such file.")
        self._request, self._store, self._scratch = request, store, scratch
        self._calib, self._progress = calib, progress
        self._model: Model | None = None
        self._weights: Path | None = None
        self.files = [open_artifact(Path(request.name))] if self.is_file else newest_variants(store, request.lookup)
        if isinstance(request, ModuleRequest):
            from deploy.models.open import made_from

            self.files = [artifact for artifact in self.files if made_from(artifact, request)]
        for artifact in self.files:
            artifact.verify()
        examine(self.files)

    def backends(self) -> tuple[str, ...] | None:
        """Return the backends of the named file; None for a model, and for a float ONNX file, which any may run."""
        manifest = self.files[0].manifest if self.is_file else None
        if manifest is None or (manifest.format == ONNX and manifest.target is None):
            return None
        return tuple(item.name for item in backends().values() if item.opens(manifest.format, manifest.target))

    def precisions(self) -> Sequence[str]:
        """Return the precisions that have a file; fp32 where none has."""
        known = {artifact.manifest.precision for artifact in self.files}
        return [item for item in PRECISIONS if item in known] or ["fp32"]

    def file(self, precision: str, target: str | None) -> Artifact:
        """Return the ONNX file of a precision and target; make it if it is missing."""
        for artifact in self.files:
            manifest = artifact.manifest
            any_target = self.is_file and manifest.target is None  # made elsewhere, for an unknown target
            if (manifest.format, manifest.precision) == (ONNX, precision) and (any_target or manifest.target == target):
                return artifact
        if self.is_file:
            wanted = precision + (f" for {target}" if target else "")
            own = self.files[0].manifest
            found = own.precision + (f" for {own.target}" if own.target else "")
            raise ArtifactError(f"{self.name}: this file is {found}, not {wanted}.")
        made = self._quantize(str(target)) if precision == INT8 else self._export(precision)
        self.files.append(made)
        return made

    def engine(self, precision: str) -> Artifact:
        """Return the newest TensorRT engine of a precision."""
        found = [item for item in self.files if item.manifest.format == ENGINE and item.manifest.precision == precision]
        if not found:
            flags = {"fp16": " --fp16", INT8: " --int8 --calib DATA"}.get(precision, "")
            raise ArtifactError(f"no {precision} engine of {self.name} found: deploy trt build {self.name}{flags}")
        return found[0]

    def _export(self, precision: Any) -> Artifact:
        from deploy.exporting.export import export_model

        self._progress.note(f"no {precision} file of {self.name} found: exporting")
        made = export_model(
            self._recorded(self.files), artifacts=self._store.root, precision=precision, progress=self._progress
        )
        if made.parity.verdict == "fail":
            raise ExportError(f"the {precision} export fails its parity check: {'; '.join(made.parity.reasons[:1])}")
        return made.artifact

    def _quantize(self, target: str) -> Artifact:
        from deploy.quantization.quantize import quantize

        if self._calib is None:
            raise ArtifactError(
                f"no INT8 file for {target} found, and no --calib to make one: "
                f"deploy quantize {self.name} --calib DATA --target {target}"
            )
        source = self.file("fp32", None)
        self._progress.note(f"no INT8 file of {self.name} for {target} found: quantizing")
        root = self._store.root
        return quantize(source.path, calib=self._calib, target=target, artifacts=root, progress=self._progress).artifact

    def model(self) -> Model:
        """Return the PyTorch model, built once, with the settings of its float export."""
        from deploy.models.open import open_model

        if self._model is None:
            exports = self._exports()
            with self._progress.stage(f"{self.name}: building the model"):
                self._model = open_model(self._recorded(exports or self.files), self._store, self._progress)
            self._warn_of_other_weights(self._model, exports)
        return self._model

    def _recorded(self, files: Sequence[Artifact]) -> ModelRequest:
        """Return the request that the files record; for a module in memory, its own with the recorded inputs."""
        from deploy.models.open import request_of, with_recorded_inputs

        if isinstance(self._request, ModuleRequest):
            return with_recorded_inputs(self._request, files)
        return request_of(files[0]) if files else self._request

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return the model's inputs with the sizes that its float export fixes, so that both are timed alike."""
        own = self.model().inputs
        exported = (item.manifest.inputs for item in self._exports())
        return next((specs for specs in exported if [item.name for item in specs] == [item.name for item in own]), own)

    def _exports(self) -> list[Artifact]:
        return [item for item in self.files if item.manifest.precision in EXPORTS and item.manifest.target is None]

    def _warn_of_other_weights(self, model: Model, exports: Sequence[Artifact]) -> None:
        for artifact in exports:
            exported = artifact.manifest.weights.sha256
            if model.weights.sha256 and exported and model.weights.sha256 != exported:
                self._progress.warn(f"{artifact.path}: exported from other weights than PyTorch runs now.")

    def rebuilt(self) -> tuple[Mapping[str, Any], Path]:
        """Return a request that rebuilds `model` with the same weights in another process, and the weight file.

        Raises:
            UsageError: a module in memory, which no other process can build; or an ONNX file: what evaluates it in
                PyTorch is made for float64, and its time says nothing.
        """
        from safetensors.torch import save_file

        from deploy.core.model import state_tensors

        if isinstance(self._request, ModuleRequest):
            raise UsageError(
                "PyTorch is timed in a process of its own, which cannot build a module in memory; "
                "to time it, give a factory: FILE.py:FACTORY."
            )
        model = self.model()
        if model.is_onnx:
            raise UsageError(f"the model of {self.name} is the ONNX file {model.name}, for which PyTorch has no code.")
        if self._weights is None:
            self._weights = self._scratch / f"{model.slug}.safetensors"
            state = {name: value.detach().clone().contiguous() for name, value in state_tensors(model.module).items()}
            save_file(state, self._weights)
        request = dataclasses.replace(ModelRequest.from_dict(model.reference), weights=str(self._weights))
        return request.to_dict(), self._weights
