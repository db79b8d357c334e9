"""The page of a server: PyTorch beside the files, on a picture that somebody drops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from starlette.routing import Route

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, DeployError
from deploy.core.model import Model, Preprocessing
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import batch_symbol
from deploy.data.folder import decode
from deploy.data.preprocess import image_preprocessing, prepare
from deploy.models.open import open_model, request_of
from deploy.serving.app import Service
from deploy.serving.models import Opening
from deploy.serving.page import Page
from deploy.serving.served import ServedModel


def page_routes(
    artifact: Artifact,
    served: Sequence[ServedModel],
    service: Service,
    opening: Opening,
    store: Store,
    stack: contextlib.ExitStack,
    progress: Progress,
) -> list[Route]:
    """The page's addresses; none where the model takes no pictures, which is said.

    Args:
        artifact: the first of the files: of its weights PyTorch is opened.
        served: what the page compares.
        service: reads what is dropped.
        opening: how PyTorch is put behind a queue.
        store: where trained weights are found.
        stack: closes what is opened here.
        progress: told what is missing.
    """
    manifest = artifact.manifest
    variants, remarks = list(served), list[str]()
    recipe = manifest.preprocessing
    try:
        with progress.stage("opening the model in PyTorch"):
            model = open_model(request_of(artifact), store, progress)
        if model.weights.identity != manifest.weights.identity:
            raise ArtifactError(f"its weights are now {model.weights.source}, not those of {artifact.path.name}.")
        if recipe is None:
            recipe = image_preprocessing(model)
            height, width = recipe.crop
            remarks.append(
                f"nothing says how {manifest.model} was trained to see pictures: "
                f"they are resized to {height} x {width} and scaled to [-1, 1]"
            )
    except DeployError as exc:
        remarks.append(f"PyTorch is not beside it: {exc.message}")
    else:
        variants.insert(0, _torch(model, manifest.labels, opening))
        stack.callback(variants[0].batcher.close)
    if recipe is None or len(manifest.inputs) != 1:
        progress.note("there is no page: nothing says how a picture becomes the model's input")
        return []
    for remark in remarks:
        progress.warn(remark)
    page = Page(title=manifest.model, variants=variants, remarks=remarks, prepare=_preparing(recipe), service=service)
    return page.routes()


def _torch(model: Model, labels: tuple[str, ...], opening: Opening) -> ServedModel:
    batched = batch_symbol(model.inputs, ()) is not None
    return ServedModel(
        name="torch",
        platform="pytorch",
        batcher=opening.batcher([PyTorchRunner(model)], "torch", batched=batched),
        inputs=model.inputs,
        outputs=(),
        labels=model.labels or labels,
        about={"file": model.weights.source},
    )


def _preparing(recipe: Preprocessing) -> Callable[[bytes], NDArray[np.float32]]:
    def run(data: bytes) -> NDArray[np.float32]:
        return prepare(decode(data), recipe)

    return run
