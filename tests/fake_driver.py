"""A CUDA driver of one GPU: the functions that `deploy.support.cuda_driver` calls, compiled for a child process."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = """
#include <string.h>
static const int order[] = {%(order)s};
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = sizeof(order) / sizeof(int); return 0; }
int cuDriverGetVersion(int *version) { *version = 99000; return 0; }
int cuDeviceGet(int *device, int index) { *device = order[index]; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "%(name)s", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? %(major)s : %(minor)s;
    return 0;
}
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) { memset(uuid, 0x10 + device, 16); return 0; }
"""


def fake_driver(
    folder: Path, name: str = "NVIDIA H100", capability: str = "9.0", order: tuple[int, ...] = (0,)
) -> Mapping[str, str]:
    """Compile the driver; return the environment in which a child process loads it.

    Args:
        order: numbers of the visible GPUs, as ``CUDA_VISIBLE_DEVICES`` orders them; they decide the identifiers.
    """
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) for the driver")
    major, minor = capability.split(".")
    source, target = folder / "driver.c", folder / "libcuda.so.1"
    text = SOURCE % {"name": name, "major": major, "minor": minor, "order": ", ".join(map(str, order))}
    source.write_text(text, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", str(target), str(source)], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}
