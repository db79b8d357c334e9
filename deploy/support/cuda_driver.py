"""Query the NVIDIA driver directly, without PyTorch and without creating a CUDA context."""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, https://docs.nvidia.com/cuda/cuda-driver-api."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        capability: compute capability, ``8.9``.
        cuda: newest CUDA version that the driver supports, ``13.0``.
    """

    name: str
    capability: str
    cuda: str


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs in the driver's order; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return tuple(_gpu(driver, index, cuda_version(version.value)) for index in range(count.value))


def gpu_uuid(index: int) -> str | None:
    """Return the identifier of a GPU, ``GPU-…``, by its index in the driver's order; None without a driver.

    The order is that of CUDA, which ``CUDA_VISIBLE_DEVICES`` changes; other tools count all GPUs.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, found = ctypes.c_int(0), (ctypes.c_ubyte * 16)()
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
            return None
        failed = driver.cuDeviceGetUuid_v2(found, device)
    except (OSError, AttributeError):  # no driver, or one older than CUDA 11.4
        return None
    return None if failed else f"GPU-{uuid.UUID(bytes=bytes(found))}"


def cuda_version(number: int) -> str:
    """Format the driver's version number: 13020 is ``13.2``."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpu(driver: ctypes.CDLL, index: int, cuda: str) -> Gpu:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    return Gpu(name=name.value.decode(errors="replace"), capability=".".join(parts), cuda=cuda)
