"""Optional packages: what needs them, the extra that installs them, and whether they are there. None is imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.core.errors import MissingPackageError


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of this package.

    Attributes:
        purpose: what needs it, for the message.
        packages: the name for ``pip`` of every module that is imported.
    """

    purpose: str
    packages: Mapping[str, str]


EXTRAS = {
    "data": Extra("the data set digits", {"sklearn": "scikit-learn"}),
    "detection": Extra("mean average precision", {"faster_coco_eval": "faster-coco-eval"}),
    "edit": Extra("--simplify", {"onnxslim": "onnxslim"}),
    "loadgen": Extra("the scenario loadgen", {"mlperf_loadgen": "mlcommons-loadgen"}),
    "ray": Extra("the sweep engine ray", {"ray": "ray", "yaml": "pyyaml"}),
    "report": Extra("the report", {"jinja2": "jinja2", "plotly": "plotly"}),
    "serve": Extra(
        "the server",
        {
            "uvicorn": "uvicorn",
            "starlette": "starlette",
            "orjson": "orjson",
            "prometheus_client": "prometheus-client",
        },
    ),
    "sign": Extra("signatures", {"model_signing": "model-signing", "OpenSSL": "pyopenssl"}),
    "sweep": Extra("a YAML file", {"yaml": "pyyaml"}),
}


def installed(module: str) -> bool:
    """Return whether a module was imported or can be found."""
    if sys.modules.get(module) is not None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package that it is in is missing
        return False


def require(extra: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        MissingPackageError: one is not.
    """
    declared = EXTRAS[extra]
    for module, package in declared.packages.items():
        if not installed(module):
            raise MissingPackageError(package, declared.purpose, f"deploy-toolkit[{extra}]")
