"""Measure the structure of the source code: rooms, imports, lines, and the files that commands reach.

    python -m benchmarks.structure

Writes results/structure.json.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grimp

from benchmarks.common import deploy_or_exit, write

ROOT = Path(__file__).parent.parent
PACKAGES = ("deploy", "exporters", "calibration")
HEAVY = ("torch", "exporters", "calibration", "onnx", "onnxruntime")
REACHED = """
import json, sys
from deploy.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
files = sorted(name for name in sys.modules if name.split(".")[0] in ("deploy", "exporters", "calibration"))
loaded = [name for name in {heavy!r} if name in sys.modules]
print("\\nREACHED", json.dumps({{"code": code, "files": files, "loaded": loaded}}))
"""


def main() -> None:
    """Measure everything and write the result."""
    sizes = room_sizes()
    total = sum(sizes.values())
    largest = max(sizes, key=lambda room: sizes[room])
    with tempfile.TemporaryDirectory() as folder:
        export = reached(folder, "export", "zoo/lenet5", "--weights", "none")
        file = deploy_or_exit("--artifacts", folder, "export", "zoo/lenet5", "--weights", "none")["file"]
        compare = reached(folder, "compare", file, file, "--time-limit", "1", "--threads", "1")
    figures = {
        "product_lines": total,
        "lines": kinds_of_lines(),
        "rooms": dict(sorted(sizes.items(), key=lambda item: -item[1])),
        "largest_room": largest,
        "largest_room_share": round(sizes[largest] / total, 4),
        "import_contract_kept": subprocess.run(
            [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True
        ).returncode
        == 0,
        "circles": circles(),
        "classes_defined_twice": classes_defined_twice(),
        "private_imports_in_tests": private_imports(),
        "export_files": len(export["files"]),
        "compare_files": len(compare["files"]),
        "compare_imports": compare["loaded"],
    }
    write("structure", figures)
    print(json.dumps(figures, indent=1))


def sources(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield every Python file of some folders with its syntax tree."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def room_sizes() -> Counter[str]:
    """Return the lines of every room."""
    sizes: Counter[str] = Counter()
    for path, _ in sources(*PACKAGES):
        room = ".".join(path.parts[:2]) if path.parts[0] == "deploy" and len(path.parts) > 2 else path.parts[0]
        sizes[room] += len((ROOT / path).read_text(encoding="utf-8").splitlines())
    return sizes


def kinds_of_lines() -> dict[str, int]:
    """Return the numbers of docstring, blank, import and other lines."""
    kinds: Counter[str] = Counter()
    for path, tree in sources(*PACKAGES):
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        docstrings = {
            line
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None
            for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
        }
        imports = sum(
            (node.end_lineno or 0) - node.lineno + 1
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        )
        blank = sum(1 for number, line in enumerate(lines, 1) if not line.strip() and number not in docstrings)
        kinds.update(docstring=len(docstrings), blank=blank, imports=imports)
        kinds["code"] += len(lines) - len(docstrings) - blank - imports
    return dict(kinds)


def circles() -> list[list[str]]:
    """Return groups of modules that import each other in a circle; imports for types only do not count."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    edges = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    return sorted(sorted(group) for group in _components(edges) if len(group) > 1)


def _components(edges: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of a graph (Kosaraju)."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: str, following: dict[str, set[str]], out: list[str]) -> None:
        stack = [(node, iter(following.get(node, ())))]
        seen.add(node)
        while stack:
            here, left = stack[-1]
            child = next((item for item in left if item not in seen), None)
            if child is None:
                out.append(here)
                stack.pop()
            else:
                seen.add(child)
                stack.append((child, iter(following.get(child, ()))))

    for node in edges:
        if node not in seen:
            visit(node, edges, order)
    reverse: dict[str, set[str]] = defaultdict(set)
    for node, targets in edges.items():
        for target in targets:
            reverse[target].add(node)
    seen.clear()
    found = []
    for node in reversed(order):
        if node not in seen:
            component: list[str] = []
            visit(node, reverse, component)
            found.append(set(component))
    return found


def classes_defined_twice() -> dict[str, list[str]]:
    """Return class names that several files define."""
    where: dict[str, list[str]] = defaultdict(list)
    for path, tree in sources(*PACKAGES):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(str(path))
    return {name: paths for name, paths in sorted(where.items()) if len(paths) > 1}


def private_imports() -> list[str]:
    """Return imports of private modules or names of the product in the tests."""
    found = []
    for path, tree in sources("tests"):
        for node in ast.walk(tree):
            names: Sequence[str] = ()
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] in PACKAGES and any(part.startswith("_") and part != "__version__" for part in parts):
                    found.append(f"{path}: {name}")
    return found


def reached(artifacts: str, *arguments: str) -> dict[str, Any]:
    """Run a command in a new process; return its exit code and the modules of the product that it imported."""
    command = [sys.executable, "-c", REACHED.format(heavy=HEAVY), "--artifacts", artifacts, "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("REACHED "))
    result: dict[str, Any] = json.loads(line.removeprefix("REACHED "))
    if result["code"] not in (0, 4):
        raise SystemExit(f"{arguments}: exit code {result['code']}")
    return result


if __name__ == "__main__":
    main()
