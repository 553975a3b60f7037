"""The network of an adaptation: sizes, domains, the stage that is not trained, and ImageNet weights under any norm."""

from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import resnet18, resnet50

from shared.errors import UserError
from uda.domain_norm import PerDomain, start_target_from_source
from uda.features import domain_features, evaluation, recalibrate_target
from uda.network import DomainNetwork
from uda.protocol import GROUPS
from uda.weights import build_network


def build(**changes) -> DomainNetwork:
    settings = {
        "norm": "bn", "num_groups": None, "num_classes": 5, "batch_size": 8, "weights": None, "conversion": "fold",
    } | changes  # fmt: skip
    return build_network(settings.pop("backbone", "resnet20"), **settings)


def trained_like(network: torch.nn.Module) -> torch.nn.Module:
    """Give a network running statistics and affine parameters that are nobody's default."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            size = layer.weight.shape
            layer.weight.data.copy_(0.5 + torch.rand(size, generator=generator))
            layer.bias.data.copy_(torch.randn(size, generator=generator) * 0.2)
            layer.running_mean.copy_(torch.randn(size, generator=generator) * 0.3)
            layer.running_var.copy_(0.3 + torch.rand(size, generator=generator))
    return network


def test_resnet50_has_one_more_copy_of_each_norm_and_a_new_classifier():
    network = build(backbone="resnet50", num_classes=31)
    plain = resnet50(num_classes=31)
    norms = [layer for layer in plain.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    extra = sum(parameter.numel() for layer in norms for parameter in layer.parameters())
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == sum(parameter.numel() for parameter in plain.parameters()) + extra
    assert sum(isinstance(layer, PerDomain) for layer in network.modules()) == 53
    assert not network.head.bias.any()


@pytest.mark.slow
@pytest.mark.parametrize("groups", sorted(set(GROUPS.values())))
def test_imagenet_weights_give_the_same_features_in_both_domains(groups, tmp_path):
    torch.manual_seed(0)
    plain = trained_like(resnet50()).eval()
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    network = build(
        backbone="resnet50", norm="bgn", num_groups=groups, weights=tmp_path / "weights.pth", num_classes=31
    ).eval()  # fmt: skip
    plain.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = plain(images)
        for domain in ("source", "target"):
            features = network.answer(images, domain=domain).features
            assert (features - expected).norm() <= 1e-4 * expected.norm()


def test_the_frozen_stage_gets_no_gradient_and_changes_no_value():
    torch.manual_seed(0)
    network = build(backbone="resnet18", stem="conv3")
    images = torch.randn(4, 3, 16, 16)
    whole = network.answer(images, domain="source").features
    network.frozen_stage = 1
    frozen = network.answer(images, domain="source")
    torch.testing.assert_close(frozen.features, whole)
    frozen.logits.square().sum().backward()
    with_gradient = {name.split(".")[1] for name, value in network.named_parameters() if value.grad is not None}
    assert with_gradient == {"layer2", "layer3", "layer4", "weight", "bias"}


def test_the_frozen_stage_s_norms_still_follow_the_batches():
    network = build().train()
    network.frozen_stage = 1
    before = network.backbone.bn1.target.running_mean.clone()
    network.answer(torch.randn(4, 3, 16, 16) + 3, domain="target")
    assert not torch.equal(network.backbone.bn1.target.running_mean, before)


def test_recalibration_is_the_mean_over_batches_and_leaves_the_source():
    torch.manual_seed(0)
    network = build(norm="bgn", num_groups=4).train()
    source = {name: value.clone() for name, value in network.state_dict().items() if torch.is_tensor(value)}
    batches = [torch.randn(6, 3, 16, 16) * 2 + 1 for _ in range(3)]
    recalibrate_target(network, batches)
    first = torch.stack(
        [network.backbone.conv1(batch).flatten(1).view(len(batch), 4, -1).mean((0, 2)) for batch in batches]
    )
    statistics = {name: value for name, value in network.state_dict().items() if "bn1.target" in name}
    stem = {name: value for name, value in statistics.items() if name.startswith("backbone.bn1")}
    (mean,) = (value for name, value in stem.items() if "running_mean" in name)
    torch.testing.assert_close(mean, first.mean(0))
    for name, value in network.state_dict().items():
        if torch.is_tensor(value) and ".target." not in name:
            assert torch.equal(value, source[name]), name


def test_features_are_those_of_eval_mode_and_modes_come_back():
    torch.manual_seed(0)
    network = build().train()
    network.backbone.layer1.eval()
    modes = [module.training for module in network.modules()]
    images = torch.randn(6, 3, 16, 16)
    together = domain_features(network, [images], domain="target")
    apart = domain_features(network, images.split(2), domain="target")
    torch.testing.assert_close(together, apart)
    assert [module.training for module in network.modules()] == modes
    with pytest.raises(RuntimeError, match="inside"), evaluation(network):
        raise RuntimeError("inside")
    assert [module.training for module in network.modules()] == modes


def test_the_target_can_start_anew_from_the_source():
    network = build().train()
    network.answer(torch.randn(4, 3, 16, 16), domain="source")
    start_target_from_source(network)
    images = torch.randn(4, 3, 16, 16)
    network.eval()
    assert torch.equal(network.answer(images, domain="source").logits, network.answer(images, domain="target").logits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("nothing"), "which is none"),
        (lambda path: torch.save([torch.ones(1)], path), "holds a list"),
        (lambda path: torch.save(resnet18().state_dict(), path), "those of torchvision's resnet50"),
        (lambda path: torch.save({"conv1.weight": torch.ones(1)}, path), "without bn1.bias"),
    ],
)
def test_weights_of_something_else_are_refused(tmp_path: Path, make, message):
    make(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="weights must be") as error:
        build(backbone="resnet50", weights=tmp_path / "weights.pth")
    assert message in str(error.value)


def test_torchvision_s_weights_are_taken_when_asked_for(tmp_path, monkeypatch):
    """From torch's own cache here; the name of the file there holds its checksum."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = trained_like(resnet18()).state_dict()
    torch.save(state, folder / url.rsplit("/", 1)[1])
    network = build(backbone="resnet18", norm="bgn", num_groups=8, weights="imagenet")
    assert torch.equal(network.backbone.conv1.weight, state["conv1.weight"])


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(UserError, match="weights=imagenet must be a download that works; got") as error:
        build(backbone="resnet18", weights="imagenet")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="weights must be a file for resnet20, of which torchvision has none"):
        build(backbone="resnet20", weights="imagenet")
