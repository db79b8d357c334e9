"""Tables that PyTorch's exporter builds anew for every export, built once per process of the tests.

They take much of the time of exporting a small network: the signatures of a thousand translations, and a walk over
every operator of PyTorch for every namespace. Both results are the same at every export; the walk is repeated when an
operator was registered since.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

_MODULE = "torch.onnx._internal.exporter._registration"

_kept = False


def keep() -> None:
    """Keep the tables from now on, once PyTorch's exporter is imported; nothing if it is another PyTorch."""
    global _kept
    exporter = sys.modules.get(_MODULE)
    if _kept or exporter is None or not hasattr(exporter, "ONNXRegistry"):
        return
    _kept = True
    import torch
    from torch._export import utils

    schemas: Any = getattr(exporter, "_schemas", None)
    if hasattr(schemas, "op_signature_from_function"):
        schemas.op_signature_from_function = cache(schemas.op_signature_from_function)
    registered = getattr(torch._C, "_dispatch_get_registrations_for_dispatch_key", None)
    walk = getattr(utils, "_materialize_cpp_cia_ops", None)
    if registered and walk:
        seen: list[str] = []

        def when_changed() -> None:
            now = registered("CompositeImplicitAutograd")
            if now != seen:
                walk()
                seen[:] = now

        utils._materialize_cpp_cia_ops = when_changed
