"""Building models by name: cached, downloaded, untrained and refused weights."""

import hashlib
import http.server
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from deploy.core.errors import ModelError, UnknownNameError, WeightsError
from deploy.models import weights
from deploy.models.request import ModelRequest
from deploy.models.resolve import known_names, resolve
from deploy.models.untrained import perturb_constants
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]


def _publish(home: Path, seed: int = 3) -> dict[str, torch.Tensor]:
    """Put a checkpoint into torch's cache of downloads."""
    torch.manual_seed(seed)
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    target = home / "hub" / "checkpoints" / url.rpartition("/")[2]
    target.parent.mkdir(parents=True)
    torch.save(state, target)
    return state


def test_cached_published_weights_are_used(tmp_path: Path) -> None:
    state = _publish(tmp_path / "torch-home")
    listener = Listener()
    model = resolve(ModelRequest(name="squeezenet1_1"), listener)
    assert model.weights.trained and model.weights.source == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert listener.warnings == []
    assert all(torch.equal(model.module.state_dict()[name], value) for name, value in state.items())
    assert len(model.labels) == 1000 and model.preprocessing is not None and model.preprocessing.resize == 256


def test_without_a_network_auto_warns_and_default_refuses() -> None:
    listener = Listener()
    model = resolve(ModelRequest(name="squeezenet1_1"), listener)
    assert not model.weights.trained and len(listener.warnings) == 1 and "UNTRAINED" in listener.warnings[0]
    with pytest.raises(WeightsError, match="squeezenet1_1"):
        resolve(ModelRequest(name="squeezenet1_1", weights="default"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", folder
        serving.shutdown()
        thread.join()


def test_a_download_is_checked_and_cached(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url, folder = server
    content = b"weights" * 1000
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    cache = tmp_path / "cache"
    assert weights.fetch(f"{url}/{name}", cache).read_bytes() == content
    (folder / name).unlink()
    assert weights.fetch(f"{url}/{name}", cache).read_bytes() == content
    assert [path.name for path in cache.iterdir()] == [name]


def test_a_download_with_a_wrong_digest_is_discarded(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url, folder = server
    (folder / "net-00000000.pth").write_bytes(b"tampered")
    with pytest.raises(WeightsError, match="net-00000000"):
        weights.fetch(f"{url}/net-00000000.pth", tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"missing\.pth"):
        weights.fetch(f"{url}/missing.pth", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["zoo/lenet_bn", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_untrained_weights_are_the_same_in_every_command(name: str) -> None:
    before = torch.random.get_rng_state()
    first, second = (resolve(ModelRequest(name=name, weights="none")).module.state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's generator was disturbed"
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = resolve(ModelRequest(name=name, weights="none", seed=1)).module.state_dict()
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_untrained_weights_have_no_constants_and_settled_statistics() -> None:
    module = resolve(ModelRequest(name="mobilenet_v3_small", weights="none")).module
    constant = [name for name, value in module.named_parameters() if value.unique().numel() == 1]
    assert constant == []
    norms = [item for item in module.modules() if isinstance(item, torch.nn.BatchNorm2d)]
    assert all(float(item.running_var.std()) > 0 for item in norms), "initial statistics"
    assert all(item.running_mean.dtype is torch.float32 for item in norms)
    with torch.no_grad():
        spread = module(torch.randn(4, 3, 64, 64)).std(0).mean()
    assert 1e-3 < float(spread) < 1e3


def test_a_head_that_is_initialized_to_zero_gets_noise() -> None:
    module = torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 32, num_classes=5)
    assert float(module.heads[0].weight.detach().abs().max()) == 0.0
    assert perturb_constants(module, 0) > 0
    assert float(module.heads[0].weight.detach().abs().max()) > 0.0


def test_bare_names_and_precedence() -> None:
    assert resolve(ModelRequest(name="lenet5", weights="none")).name == "zoo/lenet5"
    assert resolve(ModelRequest(name="squeezenet1_1", weights="none")).name == "torchvision/squeezenet1_1"
    with pytest.raises(UnknownNameError) as caught:
        resolve(ModelRequest(name="lenett5"))
    assert "lenet5" in caught.value.suggestions


def test_zoo_names_never_collide_with_torchvisions() -> None:
    assert not set(known_names("zoo")) & set(known_names("torchvision"))


class Faint(torch.nn.Module):
    """Normalizations as transformers creates those of MobileViT: weights and scales around 0.02."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            part
            for width in (3, *[8] * 7)
            for part in (torch.nn.Conv2d(width, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.SiLU())
        ]
        self.layers, self.head = torch.nn.Sequential(*layers), torch.nn.Linear(8, 2)
        generator = torch.Generator().manual_seed(2)
        for part in self.layers:
            if isinstance(part, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
                torch.nn.init.normal_(part.weight, std=0.02, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.Tensor(self.head(self.layers(x).mean((2, 3))))


def test_untrained_normalizations_do_not_make_the_signal_vanish(tmp_path: Path) -> None:
    file = tmp_path / "faint.py"
    source = inspect.getsource(Faint)
    file.write_text(f"import torch\n\n\n{source}\n\ndef build():\n    return Faint()\n", encoding="utf-8")
    request = ModelRequest(name=f"{file}:build", weights="none", inputs=("x:batch,3,16,16",))
    model = resolve(request)
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model.module(x)
    assert float((outputs - outputs.mean(0)).square().mean().sqrt()) > 0.01
    assert weights.state_digest(model.module) == weights.state_digest(resolve(request).module), "seeded"


def test_untrained_weights_of_a_model_that_does_not_run(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "import torch\n\n\ndef build():\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(9))\n",
        encoding="utf-8",
    )
    with pytest.raises(ModelError, match=r"does not run on x .*running_mean should contain 8 elements not 9"):
        resolve(ModelRequest(name=f"{file}:build", weights="none", inputs=("x:batch,3,16,16",)))
