"""Sequences of calls of the TensorRT runner, each with what must come out, on the runtime of `fake_tensorrt`."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from deploy.core.artifact import Manifest, Payload, manifest_path
from deploy.core.errors import BackendError
from deploy.core.model import Weights
from deploy.core.tensors import TensorSpec
from deploy.support.cuda_driver import Gpu as DriverGpu
from tests.backends.fake_tensorrt import FakeTorch, Gpu, ICudaEngine, Plan, Tensor, make_module

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_HERE = DriverGpu(name="NVIDIA L4", capability="8.9", cuda="99.0")
_WEIGHTS = (np.random.default_rng(5).integers(-8, 9, (3, 2)) / 4).astype(np.float32)
"""With inputs that are multiples of 1/64, products and sums are exact on every machine."""


@cache
def _weights_on_gpu() -> torch.Tensor:
    return torch.from_numpy(_WEIGHTS).cuda()


IMAGES = Plan(
    tensors=(
        Tensor(
            name="image",
            shape=(-1, 3),
            ranges=(((1, 3), (1, 3), (4, 3)), ((5, 3), (8, 3), (16, 3)), ((2, 3), (3, 3), (12, 3))),
        ),
        Tensor(name="logits", shape=(-1, 2)),
    ),
    shapes=lambda shapes, host: {"logits": (shapes["image"][0], 2)},
    compute=lambda feeds: {"logits": feeds["image"] @ _WEIGHTS},
    kernels=lambda feeds: {"logits": feeds["image"] @ _weights_on_gpu()},
    profiles=3,
)
"""A batch of vectors; three profiles that overlap."""

MIXED = Plan(
    tensors=(
        Tensor(name="scale", shape=(), ranges=(((), (), ()),)),
        Tensor(name="mask", shape=(-1,), dtype="bool", ranges=(((1,), (4,), (8,)),)),
        Tensor(name="rows", shape=(-1, 3), dtype="float16", ranges=(((1, 3), (4, 3), (8, 3)),)),
        Tensor(name="kept", shape=(-1, 3), dtype="float16"),
        Tensor(name="count", shape=(), dtype="int64"),
    ),
    shapes=lambda shapes, host: {"kept": shapes["rows"], "count": ()},
    compute=lambda feeds: {
        "kept": feeds["rows"] * feeds["scale"].astype(np.float16) * feeds["mask"][:, None],
        "count": feeds["mask"].sum(),
    },
    kernels=lambda feeds: {
        "kept": feeds["rows"] * feeds["scale"].half() * feeds["mask"][:, None],
        "count": feeds["mask"].sum(),
    },
)
"""Several types, and tensors without dimensions."""

PREFIX = Plan(
    tensors=(
        Tensor(name="values", shape=(8,), ranges=(((8,), (8,), (8,)),)),
        Tensor(name="start", shape=(1,), dtype="int64", ranges=(((1,), (1,), (1,)),), on_host=True),
        Tensor(name="size", shape=(1,), dtype="int64", ranges=(((1,), (1,), (1,)),), on_host=True),
        Tensor(name="part", shape=(-1,)),
    ),
    shapes=lambda shapes, host: {"part": (int(host["size"][0]),)},
    compute=lambda feeds: {"part": feeds["values"][feeds["start"][0] : feeds["start"][0] + feeds["size"][0]]},
    kernels=lambda feeds: {"part": feeds["values"][int(feeds["start"][0]) :][: int(feeds["size"][0])]},
)
"""Two inputs that are read on the CPU: one decides the shape of the output, the other only its values."""

EMPTY = Plan(
    tensors=(
        Tensor(name="boxes", shape=(-1, 3), ranges=(((0, 3), (2, 3), (4, 3)),)),
        Tensor(name="scores", shape=(-1, 2)),
    ),
    shapes=lambda shapes, host: {"scores": (shapes["boxes"][0], 2)},
    compute=lambda feeds: {"scores": feeds["boxes"] @ _WEIGHTS},
    kernels=lambda feeds: {"scores": feeds["boxes"] @ _weights_on_gpu()},
)
"""A batch that may be empty."""

STATIC = Plan(
    tensors=(
        Tensor(name="image", shape=(2, 3), ranges=(((2, 3), (2, 3), (2, 3)),)),
        Tensor(name="logits", shape=(2, 2)),
    ),
    shapes=lambda shapes, host: {"logits": (2, 2)},
    compute=lambda feeds: {"logits": feeds["image"] @ _WEIGHTS},
    kernels=lambda feeds: {"logits": feeds["image"] @ _weights_on_gpu()},
    profiles=0,
)
"""Fixed shapes and no profile."""

FOUND = Plan(
    tensors=(Tensor(name="values", shape=(4,), ranges=(((4,), (4,), (4,)),)), Tensor(name="found", shape=(-1,))),
    shapes=lambda shapes, host: {"found": (-1,)},
    compute=lambda feeds: {"found": feeds["values"][feeds["values"] > 0]},
    kernels=lambda feeds: {"found": feeds["values"][feeds["values"] > 0]},
)
"""An output whose size depends on values that are on the GPU."""

STUBBORN = replace(IMAGES, capturable=False)
"""It cannot be captured in a CUDA graph."""


@dataclass(frozen=True)
class Desk:
    """Opens engines of one library on the fake runtime, with the runner in ``module``.

    Attributes:
        folder: for engines and caches.
        graph: replay CUDA graphs.
    """

    module: ModuleType
    library: str
    graph: bool
    folder: Path

    @property
    def captures(self) -> bool:
        """Whether the runner itself captures graphs."""
        return self.graph and self.library == "tensorrt"

    @contextmanager
    def open(self, plan: Plan, **options: Any) -> Iterator[tuple[Any, Gpu]]:
        """Open an engine of a plan; yields the runner and the GPU."""
        with pytest.MonkeyPatch.context() as patch:
            gpu, engine = self._prepare(patch)
            library = make_module(LIBRARIES[self.library], plan, gpu, "1.0", engine)
            patch.setitem(sys.modules, LIBRARIES[self.library], library)
            patch.setattr(self.module, "gpus", lambda: (_HERE,))
            with self.module.open(self._engine(plan), graph=self.graph, **options) as runner:
                yield runner, gpu

    def _prepare(self, patch: pytest.MonkeyPatch) -> tuple[Gpu, type[ICudaEngine]]:
        """Give the runner a GPU, and return it with the engines that use it."""
        gpu = Gpu()
        faked = FakeTorch(gpu)
        patch.setattr(self.module, "torch", faked)
        patch.setattr(sys.modules[self.module.capture.__module__], "torch", faked)
        return gpu, ICudaEngine

    def _engine(self, plan: Plan) -> Path:
        path = self.folder / "net.engine"
        path.write_bytes(b"engine")
        specs = [TensorSpec(name=item.name, dtype=item.dtype, shape=()) for item in plan.tensors]
        inputs = {item.name for item in plan.tensors if item.is_input}
        manifest = Manifest(
            model="zoo/net",
            slug="net",
            format="engine",
            precision="fp32",
            files=(Payload.of(path),),
            inputs=tuple(spec for spec in specs if spec.name in inputs),
            outputs=tuple(spec for spec in specs if spec.name not in inputs),
            weights=Weights(source="seed", trained=False),
            options={
                "library": self.library,
                "version": "1.0",
                "profiles": [],
                "compute_capabilities": ["8.9"],
                "gpu": {"name": _HERE.name, "capability": _HERE.capability},
                "rebuild": "deploy trt build zoo/net",
            },
        )
        manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
        return path


Feeds = Mapping[str, Any]


def images(size: int, seed: int = 0) -> Feeds:
    """Return inputs of `IMAGES`."""
    return {"image": (np.random.default_rng((size, seed)).integers(-200, 200, (size, 3)) / 64).astype(np.float32)}


def part(start: int, size: int) -> Feeds:
    """Return inputs of `PREFIX`."""
    values = np.arange(8, dtype=np.float32) * 1.5
    return {"values": values, "start": np.array([start]), "size": np.array([size])}


def right(plan: Plan, feeds: Feeds, fetches: Feeds) -> None:
    """Compare outputs with what the plan computes: names, types, shapes and values."""
    expected = plan.compute(feeds)
    outputs = [item for item in plan.tensors if not item.is_input]
    assert list(fetches) == [item.name for item in outputs]
    for item in outputs:
        want = np.asarray(expected[item.name], item.dtype)
        assert (fetches[item.name].dtype, fetches[item.name].shape) == (want.dtype, want.shape), item.name
        np.testing.assert_array_equal(fetches[item.name], want, item.name)


def refused(call: Callable[[], Any], words: str) -> None:
    """Demand an error for the user that contains words."""
    with pytest.raises(BackendError, match=words):
        call()


def sizes(desk: Desk) -> None:
    """Sizes of one profile, up and down and again."""
    with desk.open(IMAGES) as (runner, _):
        for step, size in enumerate((1, 2, 2, 1, 4, 3, 3, 1)):
            right(IMAGES, images(size, step), runner.run(images(size, step)))


def profiles(desk: Desk) -> None:
    """Sizes of several profiles, some with the same size in another profile."""
    with desk.open(IMAGES) as (runner, _):
        for step, size in enumerate((1, 8, 2, 16, 3, 3, 5, 4, 12, 1)):
            right(IMAGES, images(size, step), runner.run(images(size, step)))


def profile_at_first(desk: Desk) -> None:
    """The first run uses another profile than the first."""
    with desk.open(IMAGES) as (runner, _):
        right(IMAGES, images(16), runner.run(images(16)))


def many_launches(desk: Desk) -> None:
    """Several launches of one bind, each a run on the GPU; nothing runs before it is launched."""
    with desk.open(IMAGES) as (runner, gpu):
        runner.bind(images(2))
        before = gpu.done
        for _ in range(3):
            runner.launch()
        assert gpu.done < before + 3, "work is done late"
        runner.synchronize()
        assert gpu.done == before + 3
        right(IMAGES, images(2), runner.fetch())


def new_inputs_while_running(desk: Desk) -> None:
    """Inputs are bound while a run is pending, of the same and of other sizes."""
    with desk.open(PREFIX) as (runner, _):
        for start, size in ((0, 4), (3, 4), (1, 2), (1, 2)):
            runner.bind(part(start, size))
            runner.launch()
            runner.bind(part(start + 1, size))
            runner.launch()
            runner.synchronize()
            right(PREFIX, part(start + 1, size), runner.fetch())
            runner.launch()


def new_profile_while_running(desk: Desk) -> None:
    """The profile changes while a run is pending."""
    with desk.open(IMAGES) as (runner, _):
        for size in (1, 8, 2, 3, 16):
            runner.bind(images(size))
            runner.launch()
        runner.synchronize()
        right(IMAGES, images(16), runner.fetch())


def new_values(desk: Desk) -> None:
    """Other values of the same size, of which a captured graph must compute."""
    with desk.open(IMAGES) as (runner, gpu):
        for seed in range(4):
            right(IMAGES, images(3, seed), runner.run(images(3, seed)))
        assert gpu.captures == (1 if desk.captures else 0)


def host_sizes(desk: Desk) -> None:
    """An input on the CPU decides the output's shape."""
    with desk.open(PREFIX) as (runner, _):
        for start, size in ((0, 3), (0, 5), (0, 5), (2, 3), (0, 1)):
            right(PREFIX, part(start, size), runner.run(part(start, size)))


def host_values(desk: Desk) -> None:
    """An input on the CPU changes while all shapes stay."""
    with desk.open(PREFIX) as (runner, gpu):
        for start in (0, 1, 1, 4, 0):
            right(PREFIX, part(start, 4), runner.run(part(start, 4)))
        assert gpu.captures == (4 if desk.captures else 0)


def mixed_types(desk: Desk) -> None:
    """Booleans, half precision, integers and scalars, from arrays of any layout."""
    with desk.open(MIXED) as (runner, _):
        rng = np.random.default_rng(1)
        for size in (4, 1, 8, 8):
            rows = rng.standard_normal((3, size)).astype(np.float16).T
            feeds = {"scale": np.float32(size), "mask": rng.random(2 * size)[::2] > 0.5, "rows": rows}
            feeds["scale"] = np.array(size, np.float32)
            right(MIXED, feeds, runner.run(feeds))


def empty_batches(desk: Desk) -> None:
    """Tensors without elements."""
    with desk.open(EMPTY) as (runner, _):
        for size in (0, 2, 0, 4, 0):
            feeds = {"boxes": np.ones((size, 3), np.float32)}
            right(EMPTY, feeds, runner.run(feeds))


def fixed_shapes(desk: Desk) -> None:
    """An engine without profiles."""
    with desk.open(STATIC) as (runner, _):
        for seed in range(2):
            right(STATIC, images(2, seed), runner.run(images(2, seed)))
        refused(lambda: runner.run(images(3)), "3×3")
        right(STATIC, images(2), runner.run(images(2)))


def unknown_sizes(desk: Desk) -> None:
    """An output whose size is known only after the run is refused by name, and nothing is launched."""
    with desk.open(FOUND) as (runner, gpu):
        refused(lambda: runner.run({"values": np.ones(4, np.float32)}), "'found'")
        refused(runner.launch, "net.engine")
        assert gpu.launches == 0


def wrong_inputs(desk: Desk) -> None:
    """Inputs that do not fit are refused, and the next ones are right."""
    with desk.open(IMAGES) as (runner, _):
        right(IMAGES, images(2), runner.run(images(2)))
        refused(lambda: runner.bind(images(17)), "17×3")
        refused(lambda: runner.bind({"image": np.ones((2, 3))}), "float64")
        refused(lambda: runner.bind({"other": np.ones((2, 3), np.float32)}), "other")
        right(IMAGES, images(2, 1), runner.run(images(2, 1)))


def launch_first(desk: Desk) -> None:
    """A launch without inputs is an error."""
    with desk.open(IMAGES) as (runner, gpu):
        refused(runner.launch, "net.engine")
        assert gpu.launches == 0


def graphs_count(desk: Desk) -> None:
    """A graph is captured once for each change of shapes and replayed by every launch."""
    with desk.open(IMAGES) as (runner, gpu):
        counts = []
        for size in (2, 2, 3, 2, 8, 8):
            runner.bind(images(size))
            counts.append(gpu.captures)
            warm = gpu.launches
            runner.launch()
            runner.launch()
            runner.synchronize()
            right(IMAGES, images(size), runner.fetch())
            assert gpu.launches - warm == (0 if desk.captures else 2)
        assert counts == ([1, 1, 2, 3, 4, 4] if desk.captures else [0] * 6)
        assert gpu.replays == (12 if desk.captures else 0)


def not_capturable(desk: Desk) -> None:
    """An engine that cannot be captured is refused with the library's reason, each time; it runs without graphs."""
    with desk.open(STUBBORN) as (runner, _):
        if not desk.graph:
            right(STUBBORN, images(2), runner.run(images(2)))
            return
        for _ in range(3):
            refused(lambda: runner.bind(images(2)), "capturable")
            refused(runner.launch, "net.engine")


def a_capture_fails_once(desk: Desk) -> None:
    """A capture fails; the next bind of the same size captures again."""
    with desk.open(IMAGES) as (runner, gpu):
        right(IMAGES, images(2), runner.run(images(2)))
        if desk.captures:
            gpu.broken_captures = 1
            refused(lambda: runner.bind(images(4)), "capture")
        right(IMAGES, images(4), runner.run(images(4)))
        assert gpu.captures == (2 if desk.captures else 0)


def results_are_kept(desk: Desk) -> None:
    """What was fetched does not change with the next run."""
    with desk.open(IMAGES) as (runner, _):
        before = runner.run(images(2, 1))
        runner.run(images(2, 2))
        right(IMAGES, images(2, 1), before)


def busy_gpu(desk: Desk) -> None:
    """Another thread uses the GPU during the capture."""
    with desk.open(IMAGES) as (runner, gpu):
        gpu.busy = True
        right(IMAGES, images(2), runner.run(images(2)))


def out_of_memory(desk: Desk) -> None:
    """Memory runs out in a bind; the next bind of the same size is right, with a graph of its own."""
    with desk.open(IMAGES) as (runner, gpu):
        right(IMAGES, images(2), runner.run(images(2)))
        for left in (0, 1):
            gpu.memory_left = left
            refused(lambda: runner.bind(images(4)), "out of GPU memory")
            refused(runner.launch, "net.engine")
            gpu.memory_left = None
            before = gpu.captures
            right(IMAGES, images(4), runner.run(images(4)))
            assert gpu.captures - before == (1 if desk.captures else 0)
            right(IMAGES, images(2), runner.run(images(2)))


def gpu_time(desk: Desk) -> None:
    """The GPU's time is that of one run; a launch records no event."""
    with desk.open(IMAGES) as (runner, gpu):
        runner.bind(images(2))
        events = gpu.events
        runner.launch()
        assert gpu.events == events, "events lie outside what is timed"
        runner.synchronize()
        assert gpu.is_one_run(runner.device_ns())
        assert gpu.is_one_run(runner.device_ns())
        right(IMAGES, images(2), runner.fetch())


def closed(desk: Desk) -> None:
    """Closing twice is allowed, and frees the engine."""
    with desk.open(IMAGES) as (runner, _):
        runner.run(images(1))
        runner.close()
        runner.close()
        refused(runner.launch, "net.engine")


def runtime_cache(desk: Desk) -> None:
    """The cache of TensorRT for RTX is written and read; another file is refused."""
    if desk.library == "tensorrt":
        return
    cache = desk.folder / "kernels.cache"
    for _ in range(2):
        with desk.open(IMAGES, runtime_cache=str(cache)) as (runner, _gpu):
            right(IMAGES, images(1), runner.run(images(1)))
        assert cache.read_bytes() == b"kernels"
    cache.write_bytes(b"other")
    with pytest.raises(BackendError, match=r"kernels\.cache"), desk.open(IMAGES, runtime_cache=str(cache)):
        pass
    cache.unlink()


def random_steps(desk: Desk) -> None:
    """Seeded sequences of binds, launches, reads and refused inputs."""
    for seed in range(6):
        chance = random.Random(seed)
        with desk.open(IMAGES) as (runner, gpu):
            bound: Feeds | None = None
            for step in range(30):
                action = chance.choice(("bind", "bind", "launch", "read", "run", "misfit", "time"))
                if action in ("bind", "run"):
                    bound = images(chance.choice((1, 2, 3, 4, 5, 8, 12, 16)), step)
                    runner.bind(bound)
                elif action == "misfit":
                    refused(lambda: runner.run(images(99)), "99×3")
                if bound is None:
                    continue
                if action == "launch":
                    runner.launch()
                elif action == "time":
                    assert gpu.is_one_run(runner.device_ns())
                elif action in ("read", "run"):
                    runner.launch()
                    runner.synchronize()
                    right(IMAGES, bound, runner.fetch())


SEQUENCES = (
    sizes,
    profiles,
    profile_at_first,
    many_launches,
    new_inputs_while_running,
    new_profile_while_running,
    new_values,
    host_sizes,
    host_values,
    mixed_types,
    empty_batches,
    fixed_shapes,
    unknown_sizes,
    wrong_inputs,
    launch_first,
    graphs_count,
    not_capturable,
    a_capture_fails_once,
    results_are_kept,
    busy_gpu,
    out_of_memory,
    gpu_time,
    closed,
    runtime_cache,
    random_steps,
)
