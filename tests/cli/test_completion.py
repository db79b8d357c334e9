"""Shell completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    command = str(Path(sys.executable).with_name("deploy"))
    environment = {**os.environ, "_DEPLOY_COMPLETE": f"{shell}_source"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert "_DEPLOY_COMPLETE" in done.stdout
    assert "plain,export" in _completed("ex", Path.cwd())
    if shell == "fish":  # tried in fish 3.6: without it, what follows a comma in a list of names is cut off
        assert 'string split --max 1 ","' in done.stdout


@pytest.mark.parametrize(
    ("typed", "has", "has_not"),
    [
        ("export resnet1", {"resnet18", "resnet101"}, {"resnet50", "vgg16"}),
        ("export zoo/len", {"zoo/lenet5"}, {"lenet5"}),
        ("export to", {"torchvision/"}, {"resnet18"}),
        ("bench mine", {"mine"}, {"resnet18"}),
        ("export --arch mobilenet_v", {"mobilenet_v2"}, {"resnet18"}),
        ("compare onnx", {"onnxruntime"}, {"torch"}),
        ("bench resnet18 --backends torch,on", {"torch,onnxruntime"}, {"torch,torch"}),
        ("bench resnet18 --precision fp32,i", {"fp32,int8"}, {"fp32,fp32"}),
        ("quantize mine --target o", {"onnxruntime", "openvino"}, {"tensorrt"}),
        ("quantize mine --calib di", {"digits"}, {"shapes"}),
        ("quantize mine --method e", {"entropy"}, {"minmax"}),
        ("export resnet18 --weights no", {"none"}, {"auto"}),
        ("export resnet18 --format on", {"onnx"}, {"tensorrt"}),
        ("export --artifacts other th", {"theirs"}, {"mine"}),
    ],
)
def test_names_are_completed(typed: str, has: set[str], has_not: set[str], tmp_path: Path) -> None:
    for name in ("artifacts/mine", "other/theirs"):
        (tmp_path / name).mkdir(parents=True)
    offered = {line.partition(",")[2] for line in _completed(typed, tmp_path)}
    assert has <= offered
    assert not has_not & offered


def test_paths_are_completed_where_a_path_can_be_typed(tmp_path: Path) -> None:
    for typed in ("export ./be", "quantize mine --calib ./im", "export resnet18 --weights ./be"):
        assert f"file,{typed.split()[-1]}" in _completed(typed, tmp_path)
    assert not [line for line in _completed("bench resnet18 --backends ./be", tmp_path) if line.startswith("file")]


def test_completion_imports_nothing_slow(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom deploy.cli.main import cli\ncli(prog_name='deploy', standalone_mode=False)\n"
        "assert not {'torch', 'torchvision', 'timm', 'onnx', 'onnxruntime'} & {*sys.modules}\n"
    )
    environment = _environment("export resn")
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "resnet18" in done.stdout, done.stderr


def _completed(typed: str, folder: Path) -> list[str]:
    command = str(Path(sys.executable).with_name("deploy"))
    done = subprocess.run([command], env=_environment(typed), cwd=folder, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.split()


def _environment(typed: str) -> dict[str, str]:
    words = f"deploy {typed}"
    kept = {name: value for name, value in os.environ.items() if name != "DEPLOY_ARTIFACTS"}
    return {**kept, "_DEPLOY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
