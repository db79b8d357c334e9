"""One model of a benchmark: its files and its module, found where they are, made where they are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from deploy.core.artifact import Artifact
from deploy.core.backend import backends
from deploy.core.errors import ArtifactError, ExportError
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.exporting.export import export_model
from deploy.models.open import open_model, request_of
from deploy.models.request import ModelRequest
from deploy.quantization.quantize import quantize
from deploy.support.engine_file import FORMAT
from deploy.support.lookup import EXPORTS, newest_variants

INT8 = "int8"


class TimedModel:
    """What is timed of one name.

    Args:
        request: a model, or an ONNX file of the store.
        store: where artifacts are found and made.
        scratch: a folder for weights.
        calib: data to quantize with where an INT8 file is missing.
        progress: told of everything that is made.

    Raises:
        DigestError: a file is not what its manifest records.
        ArtifactError: the named file has no manifest.
    """

    def __init__(
        self, request: ModelRequest, store: Store, scratch: Path, calib: str | None, progress: Progress
    ) -> None:
        self.name = request.name
        self.is_file = Path(request.name).suffix in (".onnx", ".engine") and Path(request.name).is_file()
        self._request, self._store, self._scratch = request, store, scratch
        self._calib, self._progress = calib, progress
        self._model: Model | None = None
        self._weights: Path | None = None
        self.files = [Artifact.open(Path(request.name))] if self.is_file else newest_variants(store, request.name)
        for artifact in self.files:
            artifact.verify()

    def backends(self) -> tuple[str, ...] | None:
        """What runs the one file that was named; None for a model, and for a file that several run."""
        manifest = self.files[0].manifest if self.is_file else None
        if manifest is None or (manifest.format != FORMAT and manifest.target is None):
            return None
        return tuple(item.name for item in backends().values() if item.opens(manifest.format, manifest.target))

    def precisions(self) -> Sequence[str]:
        """Those there are files of; fp32 where there is none."""
        known = {artifact.manifest.precision for artifact in self.files}
        return [item for item in ("fp32", "fp16", INT8) if item in known] or ["fp32"]

    def file(self, precision: str, target: str | None) -> Artifact:
        """The file of a precision and target, made where it is missing.

        Raises:
            ArtifactError: it is missing and cannot be made: another file was named, or there is no data.
            ExportError: what was made does not hold.
        """
        for artifact in self.files:
            manifest = artifact.manifest
            if (manifest.format, manifest.precision, manifest.target) == ("onnx", precision, target):
                return artifact
        if self.is_file:
            raise ArtifactError(f"{self.name} is a file of another precision or target.")
        made = self._quantized(str(target)) if precision == INT8 else self._exported(precision)
        self.files.append(made)
        return made

    def engine(self, precision: str) -> Artifact:
        """The newest TensorRT engine of a precision.

        Raises:
            ArtifactError: there is none.
        """
        found = [item for item in self.files if item.manifest.format == FORMAT and item.manifest.precision == precision]
        if not found:
            flags = {"fp16": " --fp16", INT8: " --int8 --calib DATA"}.get(precision, "")
            raise ArtifactError(f"there is no {precision} engine of {self.name}: deploy trt build {self.name}{flags}")
        return found[0]

    def _exported(self, precision: str) -> Artifact:
        self._progress.note(f"there is no {precision} file of {self.name}: exporting it")
        request = request_of(self.files[0]) if self.files else self._request
        made = export_model(request, artifacts=self._store.root, precision=precision, progress=self._progress)
        if made.parity.verdict == "fail":
            raise ExportError(f"its {precision} export does not hold: {'; '.join(made.parity.reasons[:1])}")
        return made.artifact

    def _quantized(self, target: str) -> Artifact:
        if self._calib is None:
            raise ArtifactError(
                f"there is no INT8 file for {target}, and no --calib to make one: "
                f"deploy quantize {self.name} --calib DATA --target {target}"
            )
        source = self.file("fp32", None)
        self._progress.note(f"there is no INT8 file of {self.name} for {target}: quantizing it")
        store = self._store.root
        made = quantize(source.path, calib=self._calib, target=target, artifacts=store, progress=self._progress)
        return made.artifact

    def model(self) -> Model:
        """The module, built once, as its float export was."""
        if self._model is None:
            exports = self._exports()
            known = exports or self.files
            request = request_of(known[0]) if known else self._request
            with self._progress.stage(f"{self.name}: building the model"):
                self._model = open_model(request, self._store, self._progress)
            self._tell_apart(exports)
        return self._model

    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, with the sizes that its float export fixes: both are timed at the same."""
        own = self.model().inputs
        theirs = (item.manifest.inputs for item in self._exports())
        return next((specs for specs in theirs if [item.name for item in specs] == [item.name for item in own]), own)

    def _exports(self) -> list[Artifact]:
        return [item for item in self.files if item.manifest.precision in EXPORTS and item.manifest.target is None]

    def _tell_apart(self, exports: Sequence[Artifact]) -> None:
        now = self._model.weights if self._model else None
        for artifact in exports:
            then = artifact.manifest.weights
            if now and now.sha256 and then.sha256 and now.sha256 != then.sha256:
                self._progress.warn(f"{artifact.path}: made from other weights than PyTorch runs now.")

    def rebuilt(self) -> tuple[Mapping[str, Any], Path]:
        """A request that builds the model with the very weights of `model` in another process, and their file."""
        model = self.model()
        if self._weights is None:
            self._weights = self._scratch / f"{model.slug}.safetensors"
            state = {name: value.detach().clone().contiguous() for name, value in model.module.state_dict().items()}
            save_file(state, self._weights)
        request = dataclasses.replace(ModelRequest.from_dict(model.reference), weights=str(self._weights))
        return request.to_dict(), self._weights
