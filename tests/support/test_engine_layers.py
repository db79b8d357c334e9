"""The inspector's JSON in the formats of TensorRT 10 and 11."""

import json

import pytest

from deploy.support.engine_layers import shares

TEN = {
    "Layers": [
        {
            "Name": "conv1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Channel major INT8 format"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
            "Weights": {"Type": "Int8", "Count": 300},
            "Bias": {"Type": "Float", "Count": 3},
        },
        {"Name": "relu", "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}], "Weights": {"Count": 0}},
        {
            "Name": "fc",
            "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
            "Weights": {"Type": "Half", "Count": 9},
        },
        {"Name": "signal", "LayerType": "Signal"},
    ],
    "Bindings": ["x", "y"],
}
ELEVEN = {
    "Layers": [
        {"Name": "conv1", "Inputs": [{"Name": "x", "DataType": "Float", "Format": "Row major linear"}], "Outputs": []},
        {"Name": "cast", "Inputs": [], "Outputs": [{"Name": "y", "DataType": "BFloat16", "Format": "kLINEAR"}]},
    ],
    "I/O Tensors": [],
}


def test_layers_and_weights_by_type() -> None:
    found = shares(json.dumps(TEN))
    assert found.layers == {"int8": 1, "fp16": 2} and found.weights == {"int8": 300, "fp16": 9} and found.unknown == 1


def test_the_format_of_tensorrt_11() -> None:
    assert shares(json.dumps(ELEVEN)).layers == {"fp32": 1, "bf16": 1}


def test_an_engine_without_layer_details() -> None:
    found = shares(json.dumps({"Layers": ["conv1", "relu"]}))
    assert found.to_dict() == {"layers": {}, "weights": {}, "unknown": 2}
    with pytest.raises(ValueError, match="Expecting value"):
        shares("conv1\nrelu")
