"""Backbones: published sizes, an independent forward pass, options, messages."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

from shared.backbones import BACKBONES, STEMS, build_backbone, resolve_backbone

SMALL = {"num_classes": 10, "norm_layer": nn.BatchNorm2d}


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters", "norms"),
    [
        ("resnet18", 1000, 11_689_512, 20),  # torchvision's weights metadata
        ("resnet50", 1000, 25_557_032, 53),
        # He et al. 2016, table 6: 0.27, 0.46 and 0.85 million
        ("resnet20", 10, 269_722, 19),
        ("resnet32", 10, 464_154, 31),
        ("resnet56", 10, 853_018, 55),
    ],
)
def test_published_sizes(name, num_classes, parameters, norms):
    model = build_backbone(name, num_classes=num_classes, norm_layer=nn.BatchNorm2d)
    assert num_parameters(model) == parameters
    assert num_norms(model) == norms


@pytest.mark.parametrize("num_blocks", [3, 5, 9])
@pytest.mark.parametrize("width", [8, 16])
def test_cifar_sizes_follow_from_the_layers(num_blocks, width):
    name = f"resnet{6 * num_blocks + 2}"
    convolutions, norms = 27 * width, 2 * width
    for channels, before in ((width, width), (2 * width, width), (4 * width, 2 * width)):
        convolutions += 9 * channels * before + 9 * channels * channels * (2 * num_blocks - 1)
        norms += 2 * channels * 2 * num_blocks
    total = convolutions + norms + 4 * width * 10 + 10
    assert num_parameters(build_backbone(name, width=width, **SMALL)) == total
    projections = sum(channels * 2 * channels + 4 * channels for channels in (width, 2 * width))
    model = build_backbone(name, width=width, shortcut="projection", **SMALL)
    assert num_parameters(model) == total + projections
    assert num_norms(model) == 6 * num_blocks + 3


def test_resnet20_equals_a_forward_pass_by_hand():
    torch.manual_seed(0)
    model = build_backbone("resnet20", width=4, **SMALL).double().eval()
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point() and "conv" not in key and "fc" not in key:
            value.copy_(torch.rand_like(value) + 0.5)

    def norm(x, key):
        scale = state[f"{key}.weight"] / torch.sqrt(state[f"{key}.running_var"] + 1e-5)
        shift = state[f"{key}.bias"] - state[f"{key}.running_mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    x = norm(F.conv2d(images, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(3):
            key = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = norm(F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride, padding=1), f"{key}.bn1").clamp(min=0)
            out = norm(F.conv2d(out, state[f"{key}.conv2.weight"], padding=1), f"{key}.bn2")
            if stride == 2:
                x = torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], dim=1)
            x = (x + out).clamp(min=0)
    logits = x.flatten(2).mean(2) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(images), logits, rtol=1e-11, atol=1e-11)


def test_resnet50_is_torchvisions():
    torch.manual_seed(0)
    ours = build_backbone("resnet50", num_classes=7, norm_layer=nn.BatchNorm2d)
    theirs = resnet50(num_classes=7)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
    assert {block[0].conv2.stride for block in (ours.layer2, ours.layer3, ours.layer4)} == {(2, 2)}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("stem", STEMS)
def test_every_stem_on_every_backbone(name, stem):
    model = build_backbone(name, stem=stem, **SMALL).eval()
    seen = []
    model.layer1.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[-1]))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [{"conv7": 8, "conv3": 32, "conv3_stride2": 16}[stem]]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    "norm_layer",
    [nn.BatchNorm2d, lambda _: nn.Identity(), lambda channels: nn.BatchNorm2d(channels, affine=False)],
)
def test_any_norm_layer_trains(name, norm_layer):
    model = build_backbone(name, num_classes=3, norm_layer=norm_layer, stem="conv3")
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_starts_from_the_published_law(name):
    torch.manual_seed(0)
    model = build_backbone(name, stem="conv3", num_classes=500, norm_layer=nn.BatchNorm2d)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            expected = (2 / fan_out) ** 0.5
            assert (
                abs(float(module.weight.detach().std()) / expected - 1) < 4 * (1 / (2 * module.weight.numel())) ** 0.5
            )
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())
    bound = model.fc.in_features**-0.5
    assert bound * 0.99 < float(model.fc.weight.detach().abs().max()) <= bound


class Wrapped(nn.Module):
    """A norm inside another module, as virtual workers wrap it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, Wrapped])
@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3"), ("resnet20", "bn2")])
def test_zero_init_residual_makes_blocks_their_shortcut(name, last, norm_layer):
    model = build_backbone(name, num_classes=3, norm_layer=norm_layer, stem="conv3", zero_init_residual=True)
    zeros = [key for key, value in model.named_parameters() if not value.any() and key.endswith("weight")]
    assert len(zeros) == sum(BACKBONES[name].blocks_per_stage)
    assert all(f".{last}." in key for key in zeros)
    block = model.layer1[1]
    x = torch.rand(2, model.layer1[1].conv1.in_channels, 4, 4)
    assert torch.equal(block.train()(x), x)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet5",
            {},
            "backbone must be one of resnet18, resnet50, resnet20, resnet32, resnet56; got 'resnet5'. "
            "Did you mean 'resnet56'?",
        ),
        ("vgg", {}, "backbone must be one of resnet18, resnet50, resnet20, resnet32, resnet56; got 'vgg'."),
        (
            "resnet20",
            {"stem": "conv5"},
            "stem must be one of conv7, conv3, conv3_stride2; got 'conv5'. Did you mean 'conv7'?",
        ),
        ("resnet20", {"shortcut": "none"}, "shortcut must be one of identity, projection; got 'none'."),
        ("resnet20", {"num_classes": 0}, "num_classes must be at least 1; got 0."),
        ("resnet20", {"width": 0}, "width must be at least 1; got 0."),
        ("resnet18", {"width": 32}, "width must be left out with resnet18, whose width is fixed; got 32."),
        (
            "resnet50",
            {"shortcut": "identity"},
            "shortcut must be left out with resnet50, whose shortcut is fixed; got identity.",
        ),
        (
            "resnet20",
            {"zero_init_residual": True, "norm_layer": lambda _: nn.Identity()},
            "zero_init_residual must be False with a norm layer without a gamma; "
            "got Identity, which has 0 parameters named weight.",
        ),
    ],
)
def test_messages(name, options, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        build_backbone(name, **{**SMALL, **options})
    assert str(caught.value).startswith(message)


def test_names_need_no_torch():
    code = (
        "import sys; import shared.backbones as b; b.resolve_backbone('resnet20'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resolve_backbone("resnet50").title == "ResNet-50"
    assert not np.any([spec.stem not in STEMS for spec in BACKBONES.values()])
