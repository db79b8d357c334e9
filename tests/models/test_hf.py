"""Models of transformers from folders: classes, weights, inputs, labels, preprocessing, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy import (
    ExportReport,
    ModelError,
    ModelRequest,
    UsageError,
    WeightsError,
    check,
    export_model,
    layers,
    list_models,
)
from deploy.core.errors import UnknownNameError
from deploy.core.tensors import SizeRange
from deploy.models.resolve import resolve
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

BLOCKS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VIT = {**BLOCKS, "image_size": 16, "patch_size": 8}
TEXT = {**BLOCKS, "vocab_size": 61, "max_position_embeddings": 24}

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a folder for a class of model; return its path."""

    def write(name: str, fields: dict[str, Any], *, weights: bool = False, named: bool = True) -> str:
        kind = getattr(transformers, name)
        folder = tmp_path / "my-model"
        config = kind.config_class(**fields)
        config.architectures = [name] if named else None
        if weights:
            torch.manual_seed(4)
            kind(config).save_pretrained(folder)
        else:
            config.save_pretrained(folder)
        return str(folder)

    return write


def test_weights_of_a_folder_are_read(make: Make) -> None:
    fields = {**VIT, "id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    folder = make("ViTForImageClassification", fields, weights=True)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    listener = Listener()
    model = resolve(ModelRequest(name=folder), listener)
    assert model.weights.trained and model.weights.sha256 and not listener.warnings and not listener.notes
    assert model.slug == "my-model" and model.labels == ("cat", "dog")
    assert model.preprocessing is not None and model.preprocessing.crop == (16, 16)
    expected = transformers.ViTForImageClassification.from_pretrained(folder).state_dict()
    actual = model.module.state_dict()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_without_weights_the_model_is_untrained(make: Make) -> None:
    folder = make("ViTForImageClassification", VIT)
    listener = Listener()
    model = resolve(ModelRequest(name=folder), listener)
    assert not model.weights.trained and len(listener.warnings) == 1
    again = resolve(ModelRequest(name=folder, weights="none"))
    states = model.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert model.labels == ()
    with pytest.raises(WeightsError):
        resolve(ModelRequest(name=folder, weights="default"))


def test_a_pickle_is_refused_unless_it_is_named(make: Make) -> None:
    folder = make("ViTModel", VIT, weights=True)
    safe = Path(folder) / "model.safetensors"
    state = transformers.ViTModel.from_pretrained(folder).state_dict()
    torch.save(state, Path(folder) / "pytorch_model.bin")
    safe.unlink()
    with pytest.raises(WeightsError) as caught:
        resolve(ModelRequest(name=folder))
    assert "pytorch_model.bin" in str(caught.value.hint)
    assert not resolve(ModelRequest(name=folder, weights="none")).weights.trained
    named = resolve(ModelRequest(name=folder, weights=str(Path(folder) / "pytorch_model.bin")))
    assert named.weights.trained and torch.equal(
        named.module.state_dict()["layernorm.weight"], state["layernorm.weight"]
    )


def test_weights_in_several_files(make: Make) -> None:
    folder = make("BertModel", TEXT)
    transformers.BertModel(transformers.BertConfig(**TEXT)).save_pretrained(folder, max_shard_size="10KB")
    assert (Path(folder) / "model.safetensors.index.json").is_file()
    assert resolve(ModelRequest(name=folder)).weights.trained


def test_weights_that_the_file_lacks_are_named(make: Make) -> None:
    folder = make("BertModel", TEXT, weights=True)
    request = ModelRequest(name=folder, options={"architecture": "BertForSequenceClassification"})
    listener = Listener()
    model = resolve(request, listener)
    assert not model.weights.trained and any("classifier" in note for note in listener.notes)


def test_weights_that_do_not_fit(make: Make) -> None:
    folder = make("BertModel", TEXT, weights=True)
    with pytest.raises(WeightsError):
        resolve(ModelRequest(name=folder, options={"vocab_size": "67"}))


def test_inputs_of_texts(make: Make) -> None:
    model = resolve(ModelRequest(name=make("BertForSequenceClassification", TEXT), weights="none"))
    assert {spec.name: spec.bounds for spec in model.inputs} == {
        "input_ids": (0, 61),
        "attention_mask": (0, 2),
        "token_type_ids": (0, 2),
    }
    assert all(spec.shape == ("batch", "sequence") and spec.dtype == "int64" for spec in model.inputs)
    assert model.inputs[0].ranges == (SizeRange(dim="sequence", max=24),)


@pytest.mark.parametrize(
    ("name", "fields", "longest"),
    [
        ("RobertaModel", {**TEXT, "pad_token_id": 1, "type_vocab_size": 1}, 22),
        ("T5EncoderModel", {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}, None),
    ],
)
def test_the_longest_text(make: Make, name: str, fields: dict[str, Any], longest: int | None) -> None:
    model = resolve(ModelRequest(name=make(name, {**fields, "vocab_size": 61}), weights="none"))
    assert [spec.name for spec in model.inputs] == ["input_ids", "attention_mask"]
    allowed = {item.max for spec in model.inputs for item in spec.ranges}
    assert allowed == ({longest} if longest else set())
    if longest:  # one more position does not exist
        tensors = {spec.name: torch.full((1, longest + 1), 7) for spec in model.inputs}
        with pytest.raises((IndexError, RuntimeError)):
            model.call(tensors)
        model.call({name: value[:, :-1] for name, value in tensors.items()})


def test_inputs_can_be_chosen(make: Make) -> None:
    folder = make("BertModel", TEXT)
    request = ModelRequest(name=folder, weights="none", inputs=("input_ids:batch,length=8:int64:0..61",))
    model = resolve(request)
    assert [spec.name for spec in model.inputs] == ["input_ids"]
    assert list(model.call({"input_ids": torch.ones(1, 5, dtype=torch.int64)})) == [
        "last_hidden_state",
        "pooler_output",
    ]


def test_models_of_audio_need_inputs(make: Make) -> None:
    folder = make("ASTModel", {**BLOCKS, "max_length": 24, "num_mel_bins": 16})
    with pytest.raises(UsageError) as caught:
        resolve(ModelRequest(name=folder, weights="none"))
    assert "--input" in str(caught.value.hint)
    model = resolve(ModelRequest(name=folder, weights="none", inputs=("input_values:batch,24,16",)))
    assert "last_hidden_state" in model.call({"input_values": torch.ones(2, 24, 16)})


def test_one_tower_of_a_model(make: Make) -> None:
    tower = {"text_config": {**TEXT, "projection_dim": 8}, "vision_config": {**VIT, "projection_dim": 8}}
    folder = make("CLIPModel", {**tower, "projection_dim": 8})
    both = resolve(ModelRequest(name=folder, weights="none"))
    assert {spec.name for spec in both.inputs} == {"input_ids", "attention_mask", "pixel_values"}
    options = {"architecture": "CLIPVisionModelWithProjection"}
    one = resolve(ModelRequest(name=folder, weights="none", options=options))
    assert [spec.name for spec in one.inputs] == ["pixel_values"]
    assert one.sizes["height"] == 16


def test_options_change_the_configuration_or_are_refused(make: Make) -> None:
    folder = make("ViTForImageClassification", VIT)
    model = resolve(ModelRequest(name=folder, weights="none", options={"num_labels": "7"}))
    assert model.module.classifier.out_features == 7  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="colour"):
        resolve(ModelRequest(name=folder, weights="none", options={"colour": "red"}))
    with pytest.raises(UnknownNameError, match="Nobody"):
        resolve(ModelRequest(name=folder, weights="none", options={"architecture": "NobodyModel"}))


def test_code_of_a_folder_is_not_run(make: Make, tmp_path: Path) -> None:
    folder = Path(make("ViTModel", VIT))
    config = json.loads((folder / "config.json").read_text())
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass EvilConfig: pass\nclass EvilModel: pass\n")
    config |= {"auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}, "model_type": "evil"}
    config["architectures"] = ["EvilModel"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        resolve(ModelRequest(name=str(folder)))
    config["model_type"] = "vit"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownNameError):
        resolve(ModelRequest(name=str(folder)))
    assert not ran.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "vit", "patch_size": 0}', "{}"])
def test_damaged_configurations(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError):
        resolve(ModelRequest(name=str(folder)))


def test_a_name_on_the_hub_without_a_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError):
        resolve(ModelRequest(name="hf/nobody/nothing"))


@pytest.mark.parametrize(
    ("processor", "crop", "resize"),
    [
        ({"size": {"height": 20, "width": 24}}, (20, 24), None),
        (
            {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 28, "width": 28}},
            (28, 28),
            32,
        ),
        ({"size": {"height": 16, "width": 16}, "do_normalize": False}, (16, 16), None),
        ({"size": {"height": 16, "width": 16}, "resample": 1}, None, None),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, None, None),
        ({"size": {"height": 16, "width": 16}, "do_rescale": False}, None, None),
    ],
)
def test_preprocessing_is_that_of_the_processor_or_none(
    make: Make, processor: dict[str, Any], crop: tuple[int, int] | None, resize: int | None
) -> None:
    folder = make("ViTModel", VIT)
    transformers.CLIPImageProcessor(**{"do_center_crop": False, **processor}).save_pretrained(folder)
    listener = Listener()
    recipe = resolve(ModelRequest(name=folder, weights="none"), listener).preprocessing
    assert (recipe and (recipe.crop, recipe.resize)) == ((crop, resize) if crop else None)
    assert (recipe is None) == any("preprocessing" in note for note in listener.notes)


def _export(folder: str, store: Path, **options: Any) -> ExportReport:
    request = ModelRequest(name=folder, weights="none")
    return export_model(dataclasses.replace(request), artifacts=store, probes="quick", **options)


def test_an_encoder_is_exported_with_any_length(make: Make, store: Path) -> None:
    report = _export(make("BertForSequenceClassification", TEXT), store, strategy="export")
    assert report.verdict == "pass", report.parity.reasons
    assert report.artifact.manifest.inputs[0].shape == ("batch", "sequence")
    assert report.artifact.manifest.inputs[0].ranges == (SizeRange(dim="sequence", max=24),)
    assert check(artifacts=store, probes="quick").parity.verdict == "pass"


def test_a_decoder_is_exported_without_its_caches(make: Make, store: Path) -> None:
    fields = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 61, "n_positions": 24}
    report = _export(make("GPT2Model", fields), store, strategy="export")
    assert report.verdict == "pass", report.parity.reasons
    assert [spec.name for spec in report.artifact.manifest.outputs] == ["last_hidden_state"]


@pytest.mark.slow
def test_checks_of_values_do_not_stop_torch_export(make: Make, store: Path) -> None:
    stages = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic", "embedding_size": 8}
    backbone = {"model_type": "rt_detr_resnet", **stages, "out_features": ["stage2", "stage3", "stage4"]}
    fields = {
        "backbone_config": backbone, "d_model": 16, "encoder_hidden_dim": 16, "encoder_in_channels": [16, 16, 16],
        "decoder_in_channels": [16, 16, 16], "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_layers": 2,
        "decoder_attention_heads": 2, "num_queries": 6, "num_labels": 3, "anchor_image_size": None,
    }  # fmt: skip
    folder = make("RTDetrV2ForObjectDetection", fields)
    request = ModelRequest(name=folder, weights="none", inputs=("pixel_values:batch,3,64,64",))
    report = export_model(request, artifacts=store, probes="quick", strategy="export", outputs=("logits", "pred_boxes"))
    assert report.verdict != "fail", report.parity.reasons
    assert [spec.name for spec in report.artifact.manifest.outputs] == ["logits", "pred_boxes"]


def test_layers_are_listed_without_weights(make: Make) -> None:
    folder = make("ViTModel", VIT, weights=True)
    (line,) = list_models(folder)
    assert line.parameters and line.input == "3×16×16"
    assert sum(item.parameters for item in layers(folder)) == line.parameters


def test_the_extra_is_named_where_it_is_missing(make: Make) -> None:
    folder = make("ViTModel", VIT)
    code = f"""
import sys
sys.modules["transformers"] = None
from deploy.cli.main import main
main(["export", {folder!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "deploy-toolkit[hf]" in done.stderr
