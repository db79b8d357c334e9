"""Every network of the zoo: shapes, parameter counts, options, gradients, export.

Most tests build on the meta device, where tensors have shapes but no memory, so that large networks are as fast
as small ones.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping

import pytest
import torch
import torchvision
from torch import Tensor, nn

import deploy.models.zoo
from deploy.models.zoo.densenet import DenseBlock
from deploy.models.zoo.googlenet import Inception
from deploy.models.zoo.inception import InceptionBlock, SmallInceptionBlock
from deploy.models.zoo.resnet import ResNet
from deploy.models.zoo_entry import ZooEntry

FAMILIES = sorted(module.name for module in pkgutil.iter_modules(deploy.models.zoo.__path__))
ENTRIES: Mapping[str, ZooEntry] = {
    name: entry
    for family in FAMILIES
    for name, entry in importlib.import_module(f"deploy.models.zoo.{family}").ENTRIES.items()
}
every_network = pytest.mark.parametrize("name", ENTRIES)

ARCHITECTURES = {
    "alexnet_gray": (
        46_764_746,
        "conv1=96x54x54 pool1=96x26x26 conv2=256x26x26 pool2=256x12x12 conv3=384x12x12 conv4=384x12x12 "
        "conv5=256x12x12 pool5=256x5x5 flatten=6400 fc6=4096 fc7=4096 fc8=10",
    ),
    "densenet_gray": (
        758_226,
        "stem=64x32x32 dense1=192x32x32 transition1=96x16x16 dense2=224x16x16 transition2=112x8x8 "
        "dense3=240x8x8 transition3=120x4x4 dense4=248x4x4 head=248 fc=10",
    ),
    "fcos_small": (
        429_080,
        "stem=32x32x32 stage1=64x16x16 stage2=96x8x8",
    ),
    "googlenet_gray": (
        5_977_530,
        "stage1=64x24x24 stage2=192x12x12 stage3=480x6x6 stage4=832x3x3 stage5=1024 fc=10",
    ),
    "inception_block": (
        172_768,
        ".=256x35x35",
    ),
    "inception_small": (
        577_194,
        "conv1=64x14x14 conv2=128x7x7 stage1=256x4x4 stage2=384x2x2 flatten=384 fc=10",
    ),
    "lenet5": (
        61_706,
        "conv1=6x28x28 pool1=6x14x14 conv2=16x10x10 pool2=16x5x5 flatten=400 fc1=120 fc2=84 fc3=10",
    ),
    "lenet": (
        61_706,
        "conv1=6x28x28 pool1=6x14x14 conv2=16x10x10 pool2=16x5x5 flatten=400 fc1=120 fc2=84 fc3=10",
    ),
    "lenet_bn": (
        62_158,
        "conv1=6x28x28 pool1=6x14x14 conv2=16x10x10 pool2=16x5x5 flatten=400 fc1=120 fc2=84 fc3=10",
    ),
    "mobilenet_v1": (
        4_231_976,
        "stem=32x112x112 blocks.0=64x112x112 blocks.1=128x56x56 blocks.2=128x56x56 blocks.3=256x28x28 "
        "blocks.4=256x28x28 blocks.5=512x14x14 blocks.6=512x14x14 blocks.7=512x14x14 blocks.8=512x14x14 "
        "blocks.9=512x14x14 blocks.10=512x14x14 blocks.11=1024x7x7 blocks.12=1024x7x7 flatten=1024 fc=1000",
    ),
    "nin": (
        1_992_166,
        "block1=96x54x54 pool1=96x26x26 block2=256x26x26 pool2=256x12x12 block3=384x12x12 pool3=384x5x5 "
        "block4=10x5x5 avgpool=10x1x1 flatten=10",
    ),
    "resnet18_gray": (
        11_178_378,
        "maxpool=64x56x56 layer1=64x56x56 layer2=128x28x28 layer3=256x14x14 layer4=512x7x7 flatten=512 fc=10",
    ),
    "resnet18_digits": (
        11_180_170,
        "maxpool=64x8x8 layer1=64x8x8 layer2=128x4x4 layer3=256x2x2 layer4=512x1x1 flatten=512 fc=10",
    ),
    "plain18_digits": (
        11_005_450,
        "maxpool=64x8x8 layer1=64x8x8 layer2=128x4x4 layer3=256x2x2 layer4=512x1x1 flatten=512 fc=10",
    ),
    "plain18": (
        11_515_688,
        "maxpool=64x56x56 layer1=64x56x56 layer2=128x28x28 layer3=256x14x14 layer4=512x7x7 flatten=512 fc=1000",
    ),
    "plain34": (
        21_623_848,
        "maxpool=64x56x56 layer1=64x56x56 layer2=128x28x28 layer3=256x14x14 layer4=512x7x7 flatten=512 fc=1000",
    ),
    "unet_small": (
        247_517,
        "down.0=12x128x128 down.1=24x64x64 down.2=48x32x32 down.3=96x16x16 classify=5x128x128",
    ),
    "vgg11_gray": (
        128_806_154,
        "block1=64x112x112 block2=128x56x56 block3=256x28x28 block4=512x14x14 block5=512x7x7 flatten=25088 "
        "fc1=4096 fc2=4096 fc3=10",
    ),
    "vgg11_small": (
        43_093_322,
        "block1=16x112x112 block2=32x56x56 block3=64x28x28 block4=128x14x14 block5=128x7x7 flatten=6272 "
        "fc1=4096 fc2=4096 fc3=10",
    ),
}
"""The number of parameters, and the output shape of submodules in the order they run, without the batch.

The name ``.`` is the network itself.
"""


def stages(name: str) -> dict[str, tuple[int, ...]]:
    """Return the output shapes of the submodules of a network, from `ARCHITECTURES`."""
    items = (item.split("=") for item in ARCHITECTURES[name][1].split())
    return {stage.removeprefix("."): tuple(map(int, shape.split("x"))) for stage, shape in items}


def output_shape(name: str) -> tuple[int, ...]:
    """Return the output shape of a network with its default options, without the batch."""
    return list(stages(name).values())[-1]


def build(name: str, **options: object) -> nn.Module:
    """Build a network with real weights from a fixed seed."""
    torch.manual_seed(0)
    return ENTRIES[name].build(**options)


def build_meta(name: str, **options: object) -> nn.Module:
    """Build a network on the meta device."""
    with torch.device("meta"):
        return ENTRIES[name].build(**options)


def images(name: str, batch: int, device: str = "cpu") -> Tensor:
    """Return a batch of the network's input."""
    return torch.randn(batch, *ENTRIES[name].input_shape, device=device)


def count(network: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def without_gradient(network: nn.Module, x: Tensor) -> list[str]:
    """Return the names of the parameters that a backward pass from the output does not reach."""
    output = network(x)
    parts = output.values() if isinstance(output, dict) else [output]
    sum(part.sum() for part in parts).backward()
    return [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_the_zoo_is_complete() -> None:
    """The zoo has the networks of the specification, none with a name of torchvision."""
    assert set(ENTRIES) == set(ARCHITECTURES)
    assert not set(ENTRIES) & set(torchvision.models.list_models())


@every_network
def test_entry_is_consistent(name: str) -> None:
    """An entry lists exactly the options of `build`, all keyword-only, with allowed defaults."""
    entry = ENTRIES[name]
    parameters = inspect.signature(entry.build).parameters
    assert set(parameters) == set(entry.options)
    for option, allowed in entry.options.items():
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        default = parameters[option].default
        assert default in allowed if isinstance(allowed, tuple) else type(default) is allowed
    assert entry.summary and "\n" not in entry.summary


@every_network
def test_parameters_and_shapes(name: str) -> None:
    """Parameters and stage shapes are as declared, and every parameter gets a gradient."""
    network = build_meta(name)
    assert count(network) == ARCHITECTURES[name][0]
    seen: list[tuple[str, tuple[int, ...]]] = []
    for stage in stages(name):
        network.get_submodule(stage).register_forward_hook(
            lambda module, args, output, stage=stage: seen.append((stage, tuple(output.shape)))
        )
    assert without_gradient(network, images(name, 3, device="meta")) == []
    assert seen == [(stage, (3, *shape)) for stage, shape in stages(name).items()]


# One network per class; the others differ only in sizes. The slow ones have the most layers.
QUICK = ["lenet5", "lenet_bn", "alexnet_gray", "nin", "inception_block", "inception_small"]
SLOW = ["vgg11_small", "googlenet_gray", "resnet18_digits", "densenet_gray", "mobilenet_v1"]
EXPORTED = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_dynamic_batch(name: str) -> None:
    """`torch.export` keeps the batch dimension symbolic."""
    network = build_meta(name).eval()
    program = torch.export.export(
        network, (images(name, 2, device="meta"),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert program.module()(images(name, 5, device="meta")).shape == (5, *output_shape(name))


@every_network
def test_channels_and_classes(name: str) -> None:
    """The first layer takes `in_channels`, the last returns `num_classes`, and neither may be 0."""
    entry = ENTRIES[name]
    _, height, width = entry.input_shape
    sizes = {option: size for option, size in [("in_channels", 2), ("num_classes", 7)] if option in entry.options}
    output = build_meta(name, **sizes)(torch.zeros(2, 2, height, width, device="meta"))
    if isinstance(output, dict):  # a detector
        assert output["boxes"].shape[2] == 4
        assert output["scores"].shape[:2] == output["boxes"].shape[:2] and output["scores"].shape[2] == 7
    else:
        assert output.shape[1] == sizes.get("num_classes", output_shape(name)[0])
    for option in sizes:
        with pytest.raises(ValueError, match=f"{option}.*0"):
            entry.build(**{option: 0})


@every_network
def test_wrong_choice_names_the_allowed_values(name: str) -> None:
    """The error for a value that is not allowed lists the allowed values."""
    for option, allowed in ENTRIES[name].options.items():
        if isinstance(allowed, tuple):
            with pytest.raises(ValueError, match=f"{option}.*{allowed[-1]!r}.*'swish'"):
                build_meta(name, **{option: "swish"})


SMALL = ["lenet5", "lenet", "lenet_bn", "googlenet_gray", "inception_small", "densenet_gray"]


@pytest.mark.parametrize("name", SMALL)
def test_samples_do_not_mix_in_evaluation(name: str) -> None:
    """A sample's output is the same alone and in a batch, and depends on the sample."""
    network = build(name).eval().double()
    x = images(name, 3).double()
    with torch.no_grad():
        together = network(x)
        alone = torch.cat([network(sample[None]) for sample in x])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    assert together.std(dim=0).max() > 1e-6
    assert torch.isfinite(together).all()


def test_the_seed_decides_the_weights() -> None:
    """The same seed gives the same weights; a second call without it gives others."""
    first, again, other = build("lenet5"), build("lenet5"), ENTRIES["lenet5"].build()
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("activation", ["none", "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_lenet5_options(activation: str, pool: str) -> None:
    """The options change the layers but no parameter; without activation, average pooling makes it affine."""
    network = build("lenet5", activation=activation, pool=pool).eval().double()
    kinds = {"none": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
    pools = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
    assert isinstance(network.activation, kinds[activation])
    assert isinstance(network.pool1, pools[pool]) and isinstance(network.pool2, pools[pool])
    assert count(network) == 61_706
    with torch.no_grad():
        a, b = images("lenet5", 2).double() * 5
        f_sum, f_a, f_b, f_zero = network(torch.stack([a + b, a, b, torch.zeros_like(a)]))
    is_affine = torch.allclose(f_sum + f_zero, f_a + f_b, rtol=0, atol=1e-10)
    assert is_affine == (activation == "none" and pool == "avg")


def test_lenet_takes_relu_or_sigmoid() -> None:
    """The 28x28 LeNet has average pooling and two activations."""
    assert isinstance(build("lenet", activation="sigmoid").activation, nn.Sigmoid)
    assert isinstance(build("lenet").pool1, nn.AvgPool2d)
    with pytest.raises(ValueError, match=r"activation.*'relu', 'sigmoid'.*'tanh'"):
        build("lenet", activation="tanh")


@pytest.mark.parametrize(("name", "layers"), [("alexnet_gray", 2), ("nin", 1)])
def test_dropout_is_inactive_in_evaluation(name: str, layers: int) -> None:
    """Dropout of 0.5 changes the output from run to run in training and not in evaluation."""
    network = build(name)
    dropouts = [module for module in build_meta(name).modules() if isinstance(module, nn.Dropout)]
    assert [dropout.p for dropout in dropouts] == [0.5]  # one module, applied `layers` times
    calls: list[nn.Module] = []
    network.get_submodule("dropout").register_forward_hook(lambda module, args, output: calls.append(module))
    x = images(name, 1)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
        assert len(calls) == 2 * layers
        network.eval()
        assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("name", ["alexnet_gray", "nin", "vgg11_gray", "vgg11_small"])
def test_dropout_option(name: str) -> None:
    """The probability must be between 0 and 1; the default of VGG is 0."""
    assert build_meta(name, dropout=0.25).get_submodule("dropout").p == 0.25
    assert build_meta(name).get_submodule("dropout").p == (0.0 if name.startswith("vgg") else 0.5)
    with pytest.raises(ValueError, match=r"1\.5"):
        build_meta(name, dropout=1.5)


@pytest.mark.parametrize(
    ("name", "relus"),
    [
        *[("lenet5", 4), ("alexnet_gray", 7), ("vgg11_gray", 10), ("nin", 12), ("googlenet_gray", 3 + 9 * 6)],
        *[("inception_block", 6), ("inception_small", 2 + 2 * 6), ("resnet18_digits", 17), ("plain34", 33)],
        *[("densenet_gray", 1 + 4 * 4 + 3 + 1), ("mobilenet_v1", 1 + 13 * 2)],
    ],
)
def test_number_of_activations(name: str, relus: int) -> None:
    """Relu runs as often as in the paper: no layer lacks its activation."""
    network = build_meta(name)
    calls: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, args, output: calls.append(module))
    network(images(name, 2, device="meta"))
    assert len(calls) == relus


def test_nin_has_relu_after_each_convolution() -> None:
    """In every NiN block each of the three convolutions is followed by relu."""
    network = build_meta("nin")
    for block in ("block1", "block2", "block3", "block4"):
        kinds = [type(layer) for layer in network.get_submodule(block).children()]
        assert kinds == [nn.Conv2d, nn.ReLU] * 3


@pytest.mark.parametrize("seed", range(3))
def test_nin_starts_without_dead_classes(seed: int) -> None:
    """No class is 0 for all images; with the last relu it would never get a gradient."""
    torch.manual_seed(seed)
    network = ENTRIES["nin"].build().eval()
    with torch.no_grad():
        logits = network(torch.randn(4, 1, 96, 96))
    assert (logits > 0).all() and logits.std(dim=0).min() > 1e-3


BRANCHES = ("branch1x1", "branch3x3", "branch5x5", "branch_pool")


@pytest.mark.parametrize(
    ("block", "branches", "widths"),
    [
        (InceptionBlock(in_channels=6, pool_features=8), BRANCHES, [64, 96, 64, 8]),
        (SmallInceptionBlock(6, 5, reduce=2), BRANCHES, [5, 5, 5, 5]),
        (Inception(6, 3, (2, 4), (1, 2), 5), ("branch1", "branch2", "branch3", "branch4"), [3, 4, 2, 5]),
    ],
    ids=["v3", "small", "v1"],
)
def test_inception_branch_order(block: nn.Module, branches: tuple[str, ...], widths: list[int]) -> None:
    """The channels come in the order 1x1, 3x3, 5x5, pool."""
    block.eval()
    x = torch.randn(2, 6, 9, 9)
    for branch, part in zip(branches, block(x).split(widths, dim=1), strict=True):
        assert torch.equal(block.get_submodule(branch)(x), part)
    kernels = [
        [layer.kernel_size for layer in block.get_submodule(branch).modules() if isinstance(layer, nn.Conv2d)]
        for branch in branches
    ]
    pool = nn.AvgPool2d if isinstance(block, InceptionBlock) else nn.MaxPool2d
    assert isinstance(next(block.get_submodule(branches[-1]).children()), pool)
    last = (3, 3) if isinstance(block, SmallInceptionBlock) else (1, 1)
    assert kernels == [[(1, 1)], [(1, 1), (3, 3)], [(1, 1), (5, 5)], [last]]


def test_inception_block_layers() -> None:
    """As in Inception v3: no bias, an eps of 1e-3; `pool_features` sets the last branch's width."""
    block = build_meta("inception_block", pool_features=48)
    assert block(images("inception_block", 2, device="meta")).shape == (2, 272, 35, 35)
    for module in block.modules():
        assert not isinstance(module, nn.BatchNorm2d) or module.eps == 1e-3
        assert not isinstance(module, nn.Conv2d) or module.bias is None


def test_dense_block_appends_to_its_input() -> None:
    """A dense block's output starts with its input; every convolution is BN, relu, convolution."""
    block = DenseBlock(3, 4, growth_rate=2)
    x = torch.randn(2, 4, 5, 5)
    y = block(x)
    assert y.shape == (2, 10, 5, 5) and torch.equal(y[:, :4], x)
    for conv in block.convs:
        assert [type(layer) for layer in conv.children()] == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d]


@pytest.mark.parametrize("size", [32, 96])
def test_densenet_takes_other_sizes(size: int) -> None:
    """Global average pooling accepts any image of at least 32x32."""
    assert build_meta("densenet_gray")(torch.zeros(2, 1, size, size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(("alpha", "parameters"), [(0.75, 2_585_560), (0.5, 1_331_592), (0.25, 470_072)])
def test_mobilenet_width_multiplier(alpha: float, parameters: int) -> None:
    """The counts are the trainable parameters of the published networks of these widths."""
    network = build_meta("mobilenet_v1", width_multiplier=alpha)
    assert count(network) == parameters
    assert network(images("mobilenet_v1", 2, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_mobilenet_refuses_invalid_widths(alpha: float) -> None:
    """The width multiplier is a positive number."""
    with pytest.raises(ValueError, match=f"width_multiplier.*{alpha}"):
        build_meta("mobilenet_v1", width_multiplier=alpha)


@pytest.mark.parametrize("name", ["resnet18_gray", "resnet18_digits"])
def test_use_residual(name: str) -> None:
    """Without shortcuts the network loses their parameters, keeps all others and uses every one."""
    residual, plain = build_meta(name), build_meta(name, use_residual=False)
    lost = set(residual.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(residual.state_dict())
    assert lost and all(".shortcut." in key for key in lost)
    assert count(plain) == ARCHITECTURES["plain18_digits"][0] < count(residual)
    assert without_gradient(plain, images(name, 2, device="meta")) == []


def test_plain18_digits_is_resnet18_digits_without_shortcuts() -> None:
    """The plain network is the residual one with `use_residual=False`, and exports no shortcut."""
    plain, other = build("plain18_digits").eval(), build("resnet18_digits", use_residual=False).eval()
    x = images("plain18_digits", 2)
    assert torch.equal(plain(x), other(x))
    program = torch.export.export(plain, (x,))
    assert not [key for key in program.state_dict if "shortcut" in key]
    assert not [node for node in program.graph.nodes if "aten.add.Tensor" in str(node.target)]


class NoShortcut(nn.Module):
    """Replaces `downsample` of a torchvision block and adds nothing to the output."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the scalar shape."""
        return x.new_zeros(())


@pytest.mark.parametrize("use_residual", [True, False])
def test_resnet18_equals_torchvision(use_residual: bool) -> None:
    """With torchvision's weights, the outputs equal torchvision's, with and without shortcuts."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    if not use_residual:
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            for block in layer:
                block.downsample = NoShortcut()
    ours = ResNet(
        blocks=(2, 2, 2, 2),
        use_residual=use_residual,
        bias=False,
        shortcut_norm=True,
        in_channels=3,
        num_classes=1000,
    ).eval()
    ours.load_state_dict({key.replace("downsample", "shortcut"): value for key, value in theirs.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "residual"), [("plain18", "resnet18"), ("plain34", "resnet34")])
def test_plain_networks_have_torchvision_names(name: str, residual: str) -> None:
    """The parameters have torchvision's names and shapes, without those of the shortcuts."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(residual, weights=None).state_dict()
    expected = {key: value.shape for key, value in theirs.items() if "downsample" not in key}
    assert {key: value.shape for key, value in build_meta(name).state_dict().items()} == expected
