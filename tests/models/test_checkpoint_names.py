"""Checkpoints as training scripts leave them: under keys and prefixes, averaged, in shards, with other tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from deploy import ModelRequest, WeightsError
from deploy.models.resolve import resolve
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]

State = dict[str, Any]

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

def empty():
    with torch.device("meta"):
        return build()
"""


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def state(seed: int = 1, prefix: str = "") -> State:
    return {f"{prefix}{name}": value for name, value in net(seed).state_dict().items()}


def load(folder: Path, file: str, factory: str = "build") -> tuple[nn.Module, list[str]]:
    (folder / "net.py").write_text(NET)
    listener = Listener()
    request = ModelRequest(name=f"{folder}/net.py:{factory}", weights=str(folder / file), inputs=("x:batch,4",))
    return resolve(request, listener).module, listener.notes


def seed_of(module: nn.Module) -> int | None:
    """Return which of the seeded networks the module equals."""
    own = {name: value for name, value in module.state_dict().items() if value.dim()}
    return next((seed for seed in (1, 2, 3) if all(torch.equal(state(seed)[name], own[name]) for name in own)), None)


def averaged() -> State:
    model = torch.optim.swa_utils.AveragedModel(net(1))
    return model.state_dict()


def trained() -> State:
    """With the state of an optimizer, whose dictionaries hold tensors too."""
    module = net(1)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 4)).sum().backward()
    saved = {"model": state(1), "optimizer": optimizer.state_dict(), "epoch": 3}
    optimizer.step()
    return {**saved, "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize(
    ("saved", "named"),
    [
        (lambda: state(), ""),
        (lambda: {name: value for name, value in state().items() if not name.endswith("num_batches_tracked")}, ""),
        (lambda: state(prefix="module."), "module"),
        (lambda: state(prefix="_orig_mod."), ""),
        (lambda: state(prefix="_orig_mod.module."), "module"),
        (lambda: state(prefix="module._orig_mod."), "module"),
        (lambda: state(prefix="net.backbone."), "net.backbone"),
        (lambda: {f"0._orig_mod.{k[2:]}" if k[0] == "0" else k: v for k, v in state().items()}, ""),
        (lambda: {"state_dict": {**state(prefix="model."), "criterion.weight": torch.ones(7)}}, "state_dict.model"),
        (lambda: {"checkpoint": {"network": state(prefix="module.")}}, "checkpoint.network.module"),
        (lambda: {**state(), "epoch": 3}, ""),
        (averaged, "averaged"),
        (trained, "'model'"),
        (lambda: {"ema_state_dict": state()}, "averaged"),
        (lambda: {"generator": state(), "discriminator": {"0.weight": torch.ones(2, 2)}}, "generator"),
    ],
)
def test_the_tensors_are_found(tmp_path: Path, saved: Callable[[], State], named: str) -> None:
    torch.save(saved(), tmp_path / "last.pt")
    module, notes = load(tmp_path, "last.pt")
    assert seed_of(module) == 1
    where = [note for note in notes if "last.pt" in note]
    assert (len(where) == 1 and named in where[0]) if named else not where


@pytest.mark.parametrize("average", ["ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "swa"])
def test_an_average_beside_the_model_is_named_and_can_be_chosen(tmp_path: Path, average: str) -> None:
    torch.save({average: state(2, "module."), "model": state(1)}, tmp_path / "last.pt")
    module, notes = load(tmp_path, "last.pt")
    assert seed_of(module) == 1 and any(f"#{average}" in note for note in notes)
    module, notes = load(tmp_path, f"last.pt#{average}")
    assert seed_of(module) == 2 and not any("would fit" in note for note in notes)


def test_places_that_none_is_preferred_of_are_refused(tmp_path: Path) -> None:
    torch.save({"left": state(1), "right": state(2)}, tmp_path / "last.pt")
    with pytest.raises(WeightsError, match="left") as caught:
        load(tmp_path, "last.pt")
    assert caught.value.hint is not None and "last.pt#" in caught.value.hint
    assert seed_of(load(tmp_path, "last.pt#right")[0]) == 2
    with pytest.raises(WeightsError, match="middle"):
        load(tmp_path, "last.pt#middle")


def test_a_missing_a_wrong_and_an_extra_tensor_are_named(tmp_path: Path) -> None:
    saved = state(prefix="model.")
    del saved["model.0.bias"]
    wrong = {"model.2.weight": torch.ones(5, 3), "model.9.w": torch.ones(1)}
    torch.save({"state_dict": {**saved, **wrong}}, tmp_path / "x.pt")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path, "x.pt")
    assert all(name in caught.value.message for name in ("0.bias", "2.weight", "9.w")), caught.value.message


@pytest.mark.parametrize("saved", [{"conv.weight": torch.ones(3, 3)}, {"epoch": 1}, {}, [torch.ones(3)]])
def test_other_content_is_refused(tmp_path: Path, saved: Any) -> None:
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(WeightsError):
        load(tmp_path, "x.pt")


def test_dictionaries_that_contain_themselves_are_read_once(tmp_path: Path) -> None:
    tree: State = {"model": state(1)}
    for _ in range(30):  # 2^30 paths
        tree = {"a": tree, "b": tree}
    tree["self"] = tree
    torch.save({"model": state(1), "more": tree}, tmp_path / "x.pt")
    assert seed_of(load(tmp_path, "x.pt")[0]) == 1


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    items = list(state().items())
    parts = {"model-1.safetensors": dict(items[:3]), "model-2.safetensors": dict(items[3:])}
    for name, tensors in parts.items():
        safetensors.torch.save_file(tensors, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))
    assert seed_of(load(tmp_path, index.name)[0]) == 1
    index.write_text(json.dumps({"weight_map": {"0.weight": "../model-1.safetensors"}}))
    with pytest.raises(WeightsError):
        load(tmp_path, index.name)
    index.write_text("{")
    with pytest.raises(WeightsError):
        load(tmp_path, index.name)


def test_a_model_without_memory_takes_the_tensors_of_the_file_and_is_refused_without(tmp_path: Path) -> None:
    torch.save({name: value.half() if value.dim() else value for name, value in state().items()}, tmp_path / "x.pt")
    module, _ = load(tmp_path, "x.pt", "empty")
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert torch.equal(module.state_dict()["0.weight"], state()["0.weight"].half().float())
    for weights in ("auto", "none"):
        with pytest.raises(WeightsError, match=r"0\.weight"):
            resolve(ModelRequest(name=f"{tmp_path}/net.py:empty", weights=weights, inputs=("x:batch,4",)))
