"""Imports stay light, and every command has its help."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import structure

ROOT = Path(__file__).parent.parent
SOURCES = [path for room in ("deploy", "exporters", "calibration") for path in (ROOT / room).rglob("*.py")]
HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "tensorrt", "openvino", "timm", "rich"}


def _imports(path: Path) -> list[tuple[str, bool]]:
    """Return the modules a file imports, and whether at its top level; imports under TYPE_CHECKING do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    top = set(tree.body)
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.extend((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node in top))
    return found


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.name == "__init__.py" or path.parts[-2] in ("core", "cli")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_light_files_import_nothing_heavy(path: Path) -> None:
    for module, top in _imports(path):
        if top:
            assert module.split(".")[0] not in HEAVY, f"{path} imports {module} at its top"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["export", "--help"], ["check", "--help"], ["train", "--help"], ["verify", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from deploy.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"heavy = {sorted(HEAVY | {'numpy', 'portalocker'})!r}\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_every_command_has_a_help_line_and_examples() -> None:
    import click

    from deploy.cli.main import ABOUT, cli

    with click.Context(cli) as context:
        names = cli.list_commands(context)
        assert set(names) == set(ABOUT)
        for name in names:
            command = cli.get_command(context, name)
            assert command is not None and command.help and "Examples:" in (command.epilog or ""), name


def test_public_names_are_imported_when_they_are_used() -> None:
    import deploy

    for name in deploy.__all__:
        assert getattr(deploy, name)
        assert not (ROOT / "deploy" / name).exists(), f"importing the room {name} would hide the function"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = deploy.nothing


def test_the_import_contract_covers_every_room() -> None:
    """`lint-imports` checks only the rooms that the contract lists."""
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("layers = [")[2].partition("]")[0]
    listed = set(re.findall(r"[\w.]+", contract))
    rooms = {f"deploy.{path.parent.name}" for path in (ROOT / "deploy").glob("*/__init__.py")}
    assert listed == rooms | {"exporters", "calibration"}


def test_the_structure_of_the_code() -> None:
    assert structure.circles() == []
    assert structure.classes_defined_twice() == {}
    assert structure.private_imports() == []
    sizes = structure.room_sizes()
    assert max(sizes.values()) <= 0.12 * sum(sizes.values())
