"""The walk: what is typed, the exit code, and words that the terminal shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One line that a newcomer types.

    Attributes:
        line: what follows ``deploy``.
        code: the exit code.
        words: all of these are on the terminal, in any case; ``a|b`` is one of the two.
        never: none of these is.
    """

    line: str
    code: int
    words: tuple[str, ...]
    never: tuple[str, ...] = ("Traceback",)


STEPS = (
    # looking around
    Step("--help", 0, ("export", "quantize", "Exit codes"), ()),
    Step("--version", 0, ("deploy",)),
    Step("export --help", 0, ("--input", "--weights")),
    Step("exprot resnet18", 2, ("no such command", "export")),
    Step("doctor", 0, ("torch", "onnxruntime")),
    Step("models", 0, ("resnet18", "zoo/lenet5")),
    Step("models 'lenet*'", 0, ("lenet5", "lenet_bn")),
    # a trained checkpoint
    Step("export best.pt", 2, ("--arch",)),
    Step("export best.pt --arch resnet81", 2, ("resnet81", "resnet18")),
    Step("export best.pt --arch resnet18", 1, ("num_classes",)),
    Step("export best.pt --arch resnet18 -o num_classes=10", 0, ("parity", "pass", "best.fp32.onnx")),
    Step("export best.pt --arch resnet18 -o num_classes=10", 0, ("pass",)),
    Step("export bets.pt --arch resnet18", 1, ("bets.pt", "no such file")),
    Step("export whole.pt --arch resnet18", 1, ("whole model",)),
    Step("export script.pt --arch resnet18", 1, ("TorchScript",)),
    Step("inspect artifacts/best/best.fp32.onnx", 0, ("float32", "Conv")),
    Step("verify", 0, ("ok",)),
    # own code
    Step("export nets.py", 2, ("nets.py:plain",)),
    Step("export nets.py:plane --input x:batch,4", 2, ("plain",)),
    Step("export nets.py:plain", 2, ("--input",)),
    Step("export nets.py:plain --input x:batch,4", 0, ("pass", "nets-plain")),
    Step("export nets.py:plain --input x:batch,5", 1, ("nets.py:",), ("deploy/exporting",)),
    Step("export nets.py:noisy --input x:batch,4", 1, ("random", "randn"), ("rounding", "Traceback")),
    Step("export nets.py:wrong --input x:batch,4", 1, ("nets.py:", "inner"), ("deploy/exporting",)),
    Step("export nets.py:missing --input x:batch,4", 2, ("missing",)),
    Step("export nets.py:plain --input x=batch,4", 2, ("x=batch,4",)),
    Step("export nets.py:plain --input x:batch,4 -o out.onnx", 2, ("out.onnx",)),
    Step("export resnet18 --format onx", 2, ("onx", "onnx")),
    Step("export resnet18 --precision int9", 2, ("int9",)),
    Step("export timm/no_such_net", 2, ("no_such_net",)),
    # a file of somebody else
    Step("check theirs.onnx", 2, ("model",)),
    Step("check nets.py:plain --input x:batch,4 --onnx theirs.onnx", 0, ("pass",)),
    Step("check nets.py:plain --input x:batch,4 --onnx wrong.onnx --locate", 3, ("fail", "head")),
    Step("check nets.py:plain --onnx missing.onnx --input x:batch,4", 1, ("missing.onnx", "no such file")),
    Step("bench theirs.onnx --quick", 0, ("unproven", "onnxruntime")),
    Step("check theirs.onnx --against wrong.onnx", 3, ("fail",)),
    # INT8
    Step("quantize best --calib images/ --target onnxruntime", 0, ("SQNR",)),
    Step("quantize best --calib empty/ --target onnxruntime", 1, ("empty", "no images|images")),
    Step("quantize best --calib nowhere/ --target onnxruntime", 1, ("nowhere", "no such file or folder")),
    Step("quantize best --target onnxruntime", 2, ("--calib",)),
    Step("quantize best --calib images/ --target tensorrtt", 2, ("tensorrtt", "tensorrt")),
    Step("quantize bset --calib images/ --target onnxruntime", 2, ("bset", "did you mean best")),
    # engines
    Step("trt build --int8", 2, ("--calib",)),
    Step("trt build best --fp61", 2, ("--fp61", "--fp16")),
    Step("trt preflight missing.engine", 1, ("missing.engine",)),
    # time
    Step("bench nets-plain --quick", 0, ("onnxruntime", "latency")),
    Step("bench nets-plain --quick --backends torch,onnxrutime", 2, ("onnxrutime", "onnxruntime")),
    Step("bench nets-plain --device cuda", 1, ("cuda",)),
    Step("bench nets-plain --device gpu", 2, ("gpu", "cuda")),
    Step("bench nets-plain --batch 0", 2, ("0",)),
    Step("bench unknown-net", 2, ("unknown-net",)),
    Step("compare missing.onnx theirs.onnx", 1, ("missing.onnx",)),
    Step("report", 1, ("no timings", "--quick")),
    Step("bench nets-plain --repetitions 2 --min-time 0.05", 0, ("latency",)),
    Step("report", 0, ("index.html", "fastest")),
    Step("report --models nothing", 1, ("nothing",)),
    # afterwards
    Step("evaluate best --data images/", 1, ("2 classes", "10 outputs", "--labels")),
    Step("evaluate best", 2, ("--data",)),
    Step("serve unknown-net", 2, ("unknown-net",)),
    Step("package best --for tritn", 2, ("tritn", "triton")),
    Step("verify nowhere", 1, ("nowhere", "no such file")),
)
