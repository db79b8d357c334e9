"""Messages that tell the truth: what is the matter, where, and a command that helps."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from deploy.cli.main import cli
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]

MINE = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        return self.head(x)


class Noisy(Plain):
    def forward(self, x):
        return self.head(x) + torch.randn(3)


class Wrong(Plain):
    def forward(self, x):
        return self.inner(x)

    def inner(self, x):
        return self.head(x[:, :2])


def plain(): return Plain()
def noisy(): return Noisy()
def wrong(): return Wrong()


def raises():
    return helper()


def helper():
    return [][3]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a user's models, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("mine.py")
    path.write_text(MINE)
    return path


def refused(run: Run, *words: object, code: int, kind: str) -> tuple[str, str]:
    """Run a command that is refused; return the message and the hint."""
    done = run(*words, "--json")
    assert done.code == code, done
    error = done.json["error"]
    assert error["kind"] == kind, error
    return error["message"], error["hint"] or ""


def is_command(line: str) -> bool:
    """Whether a line is one that the parser takes."""
    words = shlex.split(line)
    assert words[0] == "deploy", line
    command: click.Command = cli
    rest = words[1:]
    with click.Context(cli) as context:
        while isinstance(command, click.Group):
            found = command.get_command(context, rest.pop(0))
            assert found is not None, line
            command = found
        command.make_context("deploy", rest)
    return True


def test_randomness_is_called_randomness(run: Run, mine: Path) -> None:
    message, _ = refused(run, "export", "mine.py:noisy", "--input", "x:batch,4", code=1, kind="ModelError")
    assert "random" in message and "rounding" not in message and "randn" in message


def test_an_axis_of_any_name_is_dynamic(run: Run, mine: Path) -> None:
    done = run("export", "mine.py:plain", "--input", "x:b=4,4", "--name", "net", "--json")
    assert done.code == 0 and done.json["parity"]["dynamic"]["b"]
    done = run(
        "bench", "net", "--batch", 8, "--backends", "onnxruntime", "--repetitions", 1, "--min-time", 0.01, "--json"
    )
    assert done.code == 0 and done.json["rows"][0]["batch"] == 8, done


@pytest.mark.parametrize("words", [("export", "saved.pt"), ("export", "saved.pt", "--arch", "lenet5"),
                                   ("export", "lenet5", "--weights", "saved.pt"),
                                   ("train", "lenet5", "--data", "digits", "--weights", "saved.pt")])  # fmt: skip
@pytest.mark.parametrize("how", ["model", "entry", "script"])
def test_a_whole_model_is_no_checkpoint(how: str, words: tuple[str, ...], run: Run, mine: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3))
    if how == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(module), "saved.pt")
    else:
        torch.save(module if how == "model" else {"model": module, "epoch": 3}, "saved.pt")
    kind = "WeightsError" if how == "script" else "UnsafePickleError"
    message, hint = refused(run, *words, code=1, kind=kind)
    assert ("TorchScript" if how == "script" else "whole model") in message
    if how != "script" and how == "model":  # what the hint says makes a checkpoint of it
        exec(hint.partition(": ")[2], {"torch": torch})
        assert torch.load("saved-weights.pt", weights_only=True).keys() == module.state_dict().keys()


def test_a_checkpoint_alone_needs_its_architecture(run: Run, mine: Path) -> None:
    torch.save(torch.nn.Linear(4, 3).state_dict(), "saved.pt")
    _, hint = refused(run, "export", "saved.pt", code=2, kind="UsageError")
    assert is_command("deploy export saved.pt " + hint[hint.index("--arch") :])


def test_a_file_without_a_function_lists_them(run: Run, mine: Path) -> None:
    lines = {
        "export mine.py": "UsageError",
        "export mine.py:plane": "UnknownNameError",
        "check mine.py": "UsageError",
        "bench mine.py:plane": "UnknownNameError",
    }
    for line, kind in lines.items():
        _, hint = refused(run, *line.split(), code=2, kind=kind)
        assert "mine.py:plain" in hint and "helper" in hint and "torch" not in hint
        assert is_command("deploy export mine.py:plain --input x:batch,4")


def test_a_mistyped_export_is_told_apart_from_models(run: Run, mine: Path) -> None:
    assert run("export", "mine.py:plain", "--input", "x:batch,4", "--name", "reader").code == 0
    for words in (("bench", "raeder"), ("quantize", "raeder", "--calib", "digits", "--target", "onnxruntime")):
        message, _ = refused(run, *words, code=2, kind="UnknownNameError")
        assert "Did you mean reader" in message


def test_a_folder_that_is_missing_is_no_data_set(run: Run, mine: Path) -> None:
    words = ("quantize", "lenet5", "--target", "onnxruntime", "--calib", "nowhere/")
    message, _ = refused(run, *words, code=1, kind="DataError")
    assert "no such file or folder" in message


def test_the_report_says_that_a_quick_look_is_not_recorded(run: Run, store: Path) -> None:
    message, hint = refused(run, "report", code=1, kind="ArtifactError")
    assert is_command(hint) and "--quick" in message


def test_a_missing_file_is_called_missing(run: Run, mine: Path) -> None:
    for name in ("gone.pt", "gone.pt2", "gone.py:net", "gone.py"):
        done = run("export", name, "--json")
        assert done.code == 1 and "no such file" in done.json["error"]["message"], name
    _, hint = refused(run, "export", "runs/gone", code=2, kind="UnknownNameError")
    assert "no file or folder runs/gone" in hint


def test_a_mistyped_architecture_is_no_number_of_classes(run: Run, mine: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), "saved.pt")
    _, hint = refused(run, "export", "saved.pt", "--arch", "resnet81", code=2, kind="UnknownNameError")
    assert is_command(hint[hint.index("deploy") :])
    _, hint = refused(run, "export", "saved.pt", "--arch", "resnet34", code=1, kind="WeightsError")
    assert "num_classes" not in hint and "architecture" in hint
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), "seven.pt")
    _, hint = refused(run, "export", "seven.pt", "--arch", "resnet18", code=1, kind="WeightsError")
    option = hint[hint.index("-o") :]
    assert option == "-o num_classes=7"
    assert run("models", "resnet18", "--layers", *option.split()).code == 0


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("raises", ("mine.py:34, in raises", "mine.py:38, in helper: return [][3]")),
        ("wrong", ("mine.py:22, in forward", "mine.py:25, in inner: return self.head(x[:, :2])")),
    ],
)
def test_an_error_in_the_users_code_shows_their_lines(name: str, lines: tuple[str, ...], run: Run, mine: Path) -> None:
    message, _ = refused(run, "export", f"mine.py:{name}", "--input", "x:batch,4", code=1, kind="ModelError")
    assert all(line in message for line in lines), message
    assert "site-packages" not in message and "deploy/" not in message


def test_an_error_while_the_users_file_is_imported_has_its_line(run: Run, mine: Path) -> None:
    Path("top.py").write_text("def net(): return 1\nvalue = {}['gone']\n")
    message, _ = refused(run, "export", "top.py:net", "--input", "x:batch,4", code=1, kind="ModelError")
    assert "top.py:2" in message and "KeyError" in message
    Path("bad.py").write_text("def net(:\n")
    message, _ = refused(run, "export", "bad.py:net", code=1, kind="ModelError")
    assert "bad.py:1" in message


def test_an_unknown_file_is_not_sent_in_a_circle(run: Run, mine: Path, lenet5: Path) -> None:
    theirs = Path("theirs.onnx")
    theirs.write_bytes((lenet5 / "lenet5" / "lenet5.fp32.onnx").read_bytes())
    _, hint = refused(run, "check", "theirs.onnx", code=2, kind="UsageError")
    assert "deploy check theirs.onnx;" not in hint and "deploy check MODEL --onnx theirs.onnx" in hint
    done = run("check", "zoo/lenet5", "--weights", "none", "--onnx", "theirs.onnx", "--json")
    assert done.code == 0 and done.json["parity"]["verdict"] == "pass"


def workspace(text: str) -> object:
    """Return the limit in bytes that ``trt build --workspace`` reads."""
    with click.Context(cli) as context:
        group = cli.get_command(context, "trt")
        assert isinstance(group, click.Group)
        return group.commands["build"].make_context("build", ["lenet5", "--workspace", text]).params["workspace_bytes"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("2gb", 2 * 10**9), ("2 GB", 2 * 10**9), ("2GiB", 2**31), ("1.5GB", 1_500_000_000),
     ("512M", 2**29), ("512MiB", 2**29), ("1000", 1000)],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert workspace(text) == size


@pytest.mark.parametrize("text", ["2XB", "GB", "-1GB", "1.2.3MB", ""])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter):
        workspace(text)


def test_one_batch_size_is_a_range() -> None:
    from deploy.core.tensors import TensorSpec
    from deploy.engines.profiles import profiles_of

    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 3))
    assert profiles_of([spec], "8", ()) == profiles_of([spec], "1:8:8", ())


def test_the_gpu_is_called_cuda_everywhere() -> None:
    for words in (("bench", "lenet5"), ("compare", "a", "b"), ("package", "lenet5", "--for", "triton")):
        done = CliRunner().invoke(cli, [*words, "--device", "gpu"])
        assert done.exit_code == 2 and "--device cuda" in done.output
        with click.Context(cli) as context:
            command = cli.get_command(context, words[0])
            assert command is not None and command.make_context("deploy", [*words[1:], "--device", "cuda"])


def test_hints_of_pip_are_quoted() -> None:
    from deploy.core.backend import backends
    from deploy.core.errors import MissingPackageError

    for install in ("deploy-toolkit[report]", "'deploy-toolkit[rtx]'", *(item.install for item in backends().values())):
        hint = MissingPackageError("x", "x", install).hint or ""
        assert shlex.split(hint)[:2] == ["pip", "install"]
        assert "[" not in hint or "'deploy-toolkit[" in hint


def test_a_backend_that_is_not_installed_is_said_once(
    run: Run, lenet5: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lenet5, store)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find(name, *rest)
    )
    words = ("bench", "lenet5", "--repetitions", 1, "--min-time", 0.01)
    done = run(*words)
    assert done.code == 0 and done.out.count("pip install 'deploy-toolkit[openvino]'") == 1, done
    assert "openvino" not in run(*words, "--backends", "onnxruntime").out
