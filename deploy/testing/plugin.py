"""A pytest plugin: the tests of a team hold its exports, and ``--deploy-update`` writes them again.

pytest imports this file at its start, in every project; what is heavy is imported by a test that asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from deploy.exporting.export import Precision, Strategy
    from deploy.models.in_memory import ExampleInputs, ModelLike
    from deploy.parity.probes import Level


class HoldExport(Protocol):
    """Type of the fixture ``deploy_export``."""

    def __call__(
        self,
        model: ModelLike,
        example_inputs: ExampleInputs | None,
        path: str | Path,
        *,
        dynamic: Sequence[str] | Mapping[str, Mapping[int, str]] | None = None,
        opset: int | None = None,
        precision: Precision = "fp32",
        strategy: Strategy = "auto",
        probes: Level = "standard",
    ) -> Path:
        """Fail unless a committed file computes what a model computes; see `deploy_export`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--deploy-update``."""
    parser.getgroup("deploy", "exports of deploy-toolkit").addoption(
        "--deploy-update",
        action="store_true",
        help="Export again, and write the ONNX files that tests hold with the fixture deploy_export.",
    )


@pytest.fixture
def deploy_export(request: pytest.FixtureRequest) -> HoldExport:
    """Return a function that fails unless a committed ONNX file computes what a model computes.

    ``deploy_export(model, example_inputs, path)`` compares the file with the model. With ``--deploy-update``, the model
    is exported to ``path`` instead, with its manifest beside it; ``dynamic``, ``opset``, ``precision`` and ``strategy``
    are those of `deploy.export`. A relative path begins in the folder of the test's file. Returned is the path.
    """
    folder, update = request.path.parent, bool(request.config.getoption("--deploy-update"))

    def hold(
        model: ModelLike,
        example_inputs: ExampleInputs | None,
        path: str | Path,
        *,
        dynamic: Sequence[str] | Mapping[str, Mapping[int, str]] | None = None,
        opset: int | None = None,
        precision: Precision = "fp32",
        strategy: Strategy = "auto",
        probes: Level = "standard",
    ) -> Path:
        __tracebackhide__ = True
        from deploy.core.errors import DeployError
        from deploy.testing import assert_equal_to_model, write_export

        file = folder / path
        again = "to write the file from the model: pytest --deploy-update"
        try:
            if update:
                write_export(
                    file,
                    model,
                    example_inputs,
                    dynamic=dynamic,
                    opset=opset,
                    precision=precision,
                    strategy=strategy,
                )
            elif not file.is_file():
                pytest.fail(f"{file}: no such file; {again}", pytrace=False)
            else:
                assert_equal_to_model(file, model, example_inputs, probes=probes)
        except AssertionError as exc:
            pytest.fail(str(exc) if update else f"{exc}\n{again}", pytrace=False)
        except DeployError as exc:
            pytest.fail(f"{exc.message} {exc.hint or ''}".rstrip(), pytrace=False)
        return file

    return hold
