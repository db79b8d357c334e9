"""The command line of NVIDIA's tools, argument by argument."""

from pathlib import Path

from exporters.onnx_to_tensorrt import EngineOptions, Profile, ShapeRange
from exporters.trtexec import trtexec


def _profile(*sizes: int, name: str = "input") -> Profile:
    low, opt, high = ((size, 3, 8, 8) for size in sizes)
    return {name: ShapeRange(min=low, opt=opt, max=high)}


def test_every_option_has_its_argument() -> None:
    options = EngineOptions(
        profiles=(_profile(1, 8, 32),),
        workspace_bytes=2**30,
        level=4,
        timing_cache=Path("a b.cache"),
        compute_capabilities=("8.6", "12.0"),
    )
    line = trtexec("tensorrt-rtx", Path("it's here/m.onnx"), Path("out.engine"), options)
    assert line == [
        "tensorrt_rtx",
        "--onnx=it's here/m.onnx",
        "--saveEngine=out.engine",
        "--skipInference",
        "--noTF32",
        "--minShapes=input:1x3x8x8",
        "--optShapes=input:8x3x8x8",
        "--maxShapes=input:32x3x8x8",
        "--memPoolSize=workspace:1073741824B",
        "--builderOptimizationLevel=4",
        "--timingCacheFile=a b.cache",
        "--computeCapabilities=86,120",
    ]


def test_several_profiles_are_numbered() -> None:
    options = EngineOptions(profiles=(_profile(1, 1, 1), _profile(2, 4, 8)))
    line = trtexec("tensorrt", Path("m.onnx"), Path("m.engine"), options)
    assert line[0] == "trtexec" and "--stronglyTyped" in line
    assert [item for item in line if item.startswith("--profile")] == ["--profile=0", "--profile=1"]
    assert line.index("--profile=1") < line.index("--minShapes=input:2x3x8x8")


def test_names_with_colons_are_quoted() -> None:
    line = trtexec(
        "tensorrt", Path("m.onnx"), Path("m.engine"), EngineOptions(profiles=(_profile(1, 1, 1, name="in:0"),))
    )
    assert "--minShapes='in:0':1x3x8x8" in line


def test_fixed_shapes_need_no_profile() -> None:
    assert not any("Shapes" in item for item in trtexec("tensorrt", Path("m"), Path("e"), EngineOptions()))
