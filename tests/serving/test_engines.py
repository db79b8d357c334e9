"""Which files are served where there is a GPU that the engine's library does not support."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.support.cuda_driver import gpus
from tests.fake_driver import fake_driver

ROOT = Path(__file__).parents[2]
CHOOSE = """
import json, sys
from pathlib import Path
from deploy.core.errors import DeployError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.serving.models import choose_files
notes = []
class Heard(Progress):
    def note(self, text): notes.append(text)
try:
    files = [Path(item) for item in sys.argv[3:]]
    chosen = choose_files(sys.argv[2] or None, files, None, Store.at(sys.argv[1]), Heard())
    print(json.dumps([[item.path.name for item in chosen], notes]))
except DeployError as exc:
    print(json.dumps([exc.message, notes]))
"""


@pytest.fixture(scope="module")
def built(lenet5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5 as ONNX, and an engine of it for all GPUs."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    import shutil

    from deploy.engines.build import build_engine
    from deploy.engines.request import BuildRequest

    root = tmp_path_factory.mktemp("engines") / "artifacts"
    shutil.copytree(lenet5, root)
    build_engine(BuildRequest(model="lenet5", runtime="tensorrt-rtx"), artifacts=root)
    return root


def chosen(root: Path, environment: dict[str, str], *arguments: str) -> tuple[list[str] | str, list[str]]:
    command = [sys.executable, "-W", "ignore", "-c", CHOOSE, str(root), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(ROOT)}, cwd=root.parent
    )
    assert done.returncode == 0, done.stderr
    answer, notes = json.loads(done.stdout)
    return answer, notes


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
@pytest.mark.parametrize(("capability", "fits"), [("9.0", False), ("8.9", True)])
def test_an_engine_is_served_on_gpus_that_its_library_knows(
    built: Path, tmp_path: Path, capability: str, fits: bool
) -> None:
    environment = dict(fake_driver(tmp_path, f"NVIDIA {capability}", capability))
    names, notes = chosen(built, environment, "lenet5")
    engines = [name for name in names if name.endswith(".engine")]
    assert bool(engines) == fits and any(name.endswith(".onnx") for name in names)
    assert any(f"compute capability {capability}" in note for note in notes) == (not fits)
    (engine,) = built.glob("*/*.engine")
    answer, _ = chosen(built, environment, "", str(engine))
    assert (answer == [engine.name]) if fits else (f"compute capability {capability}" in answer)
