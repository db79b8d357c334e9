"""Export and check architectures of transformers, small ones from their configuration classes with random weights.

    python -m benchmarks.architectures [--only PATTERN] [--again]

Needs the extra ``hf``. For each architecture a folder with ``config.json`` is written, and ``deploy export FOLDER
--weights none`` runs in a new process. Results go to results/architectures.json after every model, so that an
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.common import deploy, load, write

TIMEOUT_S = 900.0
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WIDE = {"initializer_range": 0.2}
"""Weights of 0.02, the default, make the signal of these decoders vanish, since they have no normalization."""
VIT = {**BLOCKS, "image_size": 32, "patch_size": 8}
TEXT = {**BLOCKS, "vocab_size": 99, "max_position_embeddings": 64}
STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 32, 48]}
RESNET = {"embedding_size": 16, "layer_type": "basic", **STAGES}
SWIN = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "image_size": 64, "window_size": 2}
DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
    "num_labels": 5,
}
RESNET_BACKBONE = {"model_type": "resnet", **RESNET, "out_features": ["stage2", "stage3", "stage4"]}
DINO_BACKBONE = {"model_type": "dinov2", **VIT, "out_features": ["stage1", "stage2"], "reshape_hidden_states": False}
RT = {
    **{key: value for key, value in DETR.items() if key not in ("encoder_attention_heads", "encoder_ffn_dim")},
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [24, 32, 48],
    "decoder_in_channels": [32, 32, 32],
    "encoder_ffn_dim": 64,
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "anchor_image_size": None,
}

VISION: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": VIT,
    "DeiTForImageClassification": VIT,
    "BeitForImageClassification": VIT,
    "Data2VecVisionForImageClassification": VIT,
    "ConvNextForImageClassification": STAGES,
    "ConvNextV2ForImageClassification": STAGES,
    "SwinForImageClassification": SWIN,
    "Swinv2ForImageClassification": SWIN,
    "ResNetForImageClassification": RESNET,
    "RegNetForImageClassification": {"embedding_size": 16, **STAGES, "groups_width": 8},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35, "image_size": 64},
    "MobileViTForImageClassification": {"image_size": 64},
    "MobileViTV2ForImageClassification": {"image_size": 64, "width_multiplier": 0.5},
    "PoolFormerForImageClassification": {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 32, 48]},
    "EfficientNetForImageClassification": {
        "image_size": 64,
        "width_coefficient": 0.5,
        "depth_coefficient": 0.5,
        "hidden_dim": 640,
    },
    "PvtV2ForImageClassification": {
        "image_size": 64,
        "hidden_sizes": [16, 32, 40, 64],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 5, 8],
    },
    "FocalNetForImageClassification": {"embed_dim": 16, "image_size": 64, "depths": [1, 1, 2, 1]},
    "HieraForImageClassification": {"embed_dim": 24, "image_size": [64, 64], "depths": [1, 1, 2, 1]},
    "BitForImageClassification": {"embedding_size": 16, **STAGES, "num_groups": 4},
    "SwiftFormerForImageClassification": {"embed_dims": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "image_size": 64},
    "LevitForImageClassification": {
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "image_size": 64,
        "down_ops": [["Subsample", 16, 2, 4, 2, 2], ["Subsample", 16, 3, 4, 2, 2]],
    },
    "Dinov2Model": VIT,
    "Dinov2WithRegistersModel": VIT,
    "DINOv3ViTModel": VIT,
    "DINOv3ConvNextModel": STAGES,
    "ViTMSNForImageClassification": VIT,
    "CLIPVisionModelWithProjection": VIT,
    "SiglipVisionModel": VIT,
    "SegformerForSemanticSegmentation": {
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "decoder_hidden_size": 32,
        "image_size": 64,
        "num_attention_heads": [1, 2, 4, 8],
    },
    "UperNetForSemanticSegmentation": {
        "backbone_config": {
            "model_type": "convnext",
            **STAGES,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "hidden_size": 32,
        "auxiliary_in_channels": 32,
        "auxiliary_channels": 16,
    },
    "MaskFormerForInstanceSegmentation": {
        "backbone_config": {"model_type": "swin", **SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "decoder_config": {"model_type": "detr", **DETR},
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
    },
    "Mask2FormerForUniversalSegmentation": {
        "backbone_config": {"model_type": "swin", **SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "hidden_dim": 32,
        "feature_size": 32,
        "mask_feature_size": 32,
        "encoder_feedforward_dim": 64,
        "dim_feedforward": 64,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 4,
        "num_queries": 10,
    },
    "DetrForObjectDetection": {
        **DETR,
        "use_timm_backbone": False,
        "backbone": None,
        "backbone_config": RESNET_BACKBONE,
    },
    "ConditionalDetrForObjectDetection": {
        **DETR,
        "init_std": 0.2,
        "use_timm_backbone": False,
        "backbone": None,
        "backbone_config": RESNET_BACKBONE,
    },
    "DeformableDetrForObjectDetection": {
        **DETR,
        "use_timm_backbone": False,
        "backbone": None,
        "backbone_config": RESNET_BACKBONE,
        "num_feature_levels": 4,
    },
    "YolosForObjectDetection": {**VIT, "image_size": [32, 32], "num_detection_tokens": 10},
    "RTDetrForObjectDetection": RT,
    "RTDetrV2ForObjectDetection": RT,
    "DFineForObjectDetection": RT,
    "RfDetrForObjectDetection": {
        "backbone_config": {
            "model_type": "rf_detr_dinov2",
            "hidden_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 112,
            "num_windows": 2,
            "window_block_indexes": [0, 1],
            "out_features": ["stage2", "stage4"],
        },
        "d_model": 32,
        "decoder_ffn_dim": 64,
        "decoder_layers": 2,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
        "num_queries": 10,
        "group_detr": 1,
    },
    "DPTForDepthEstimation": {
        **VIT,
        **WIDE,
        "neck_hidden_sizes": [16, 16, 16, 16],
        "fusion_hidden_size": 16,
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "is_hybrid": False,
    },
    "DepthAnythingForDepthEstimation": {
        "backbone_config": {**DINO_BACKBONE, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "out_features": None},
        **WIDE,
        "reassemble_hidden_size": 32,
        "patch_size": 8,
        "neck_hidden_sizes": [16, 16, 16, 16],
        "fusion_hidden_size": 16,
    },
    "GLPNForDepthEstimation": {
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "decoder_hidden_size": 32,
        "num_attention_heads": [1, 2, 4, 8],
    },
}

ENCODERS: dict[str, dict[str, Any]] = {
    "BertModel": TEXT,
    "BertForSequenceClassification": TEXT,
    "RobertaForTokenClassification": TEXT,
    "XLMRobertaModel": TEXT,
    "DistilBertForSequenceClassification": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "vocab_size": 99,
        "max_position_embeddings": 64,
    },
    "ElectraModel": {**TEXT, "embedding_size": 32},
    "AlbertModel": {**TEXT, "embedding_size": 16},
    "MPNetModel": TEXT,
    "DebertaV2Model": {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "ModernBertModel": {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1},
    "T5EncoderModel": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    "CLIPTextModelWithProjection": TEXT,
    "SiglipTextModel": TEXT,
    "MobileBertModel": {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "SqueezeBertModel": {**TEXT, "embedding_size": 32},
    "RoFormerModel": {**TEXT, "embedding_size": 32},
    "EsmModel": {**TEXT, "pad_token_id": 1, "mask_token_id": 2},
}
"""Fields of the configuration by class of model. What they leave is the default of the class."""


def main() -> None:
    """Measure the architectures without a result, then print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching architectures.")
    parser.add_argument("--again", action="store_true", help="Measure again what has a result.")
    arguments = parser.parse_args()
    cases = {**VISION, **ENCODERS}
    rows: dict[str, Any] = load("architectures").get("rows", {})
    for name in fnmatch.filter(cases, arguments.only):
        if name in rows and not arguments.again:
            continue
        rows[name] = measure(name, cases[name])
        print(name, rows[name], flush=True)
        counts = dict(Counter(row["result"] for row in rows.values()))
        write("architectures", {"rows": rows, "counts": counts, "transformers": metadata.version("transformers")})


def measure(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Export one architecture; ``result`` is the verdict, or ``no file``."""
    import transformers

    kind = getattr(transformers, name)
    with tempfile.TemporaryDirectory() as folder:
        config = kind.config_class(**fields)
        config.architectures = [name]
        config.save_pretrained(Path(folder) / name)
        return exported(folder, f"{folder}/{name}", timeout=TIMEOUT_S)


def exported(folder: str, *given: str, timeout: float) -> dict[str, Any]:
    """Export a network with random weights into a temporary folder; ``result`` is the verdict, or ``no file``.

    Args:
        folder: the temporary folder; its name is left out of messages.
        given: the model, and its inputs where it does not declare them.
        timeout: seconds after which there is no file.
    """
    code, document, seconds = deploy(
        "-q", "--artifacts", f"{folder}/artifacts", "export", *given, "--weights", "none", timeout=timeout
    )
    row: dict[str, Any] = {"result": "no file", "seconds": round(seconds, 1)}
    if "parity" not in document:
        message = str(document.get("error", {}).get("message", f"exit {code}"))
        return {**row, "reasons": [message.replace(folder, "")[:600]]}
    parity = document["parity"]
    return {
        **row,
        "result": parity["verdict"],
        "strategy": document["strategy"],
        "dynamic": parity["dynamic"],
        "reasons": [reason[:300] for reason in parity["reasons"][:2]],
        "notes": [note.replace(folder, "")[:300] for note in document["notes"]],
        "weights": parity["weights"]["counts"] if parity["weights"] else None,
        "coverage": parity["coverage"]["percent"] if parity["coverage"] else None,
    }


if __name__ == "__main__":
    main()
