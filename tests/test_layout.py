"""On a CPU every task's network works in channels last, from its images on."""

import pytest
import torch
from torch import nn

from adversarial.wideresnet import WideResNet
from classification.module import ClassificationModule
from fewshot.resnet12 import ResNet12
from nas.genotype import PUBLISHED
from nas.network import EvaluationNetwork
from nas.supernet import SearchNetwork
from norm_layers import norm_factory
from shared.backbones import build_backbone
from uda.weights import build_network

NORM = norm_factory("bgn", num_groups=4)


def classification() -> nn.Module:
    module = ClassificationModule(norm="bgn", batch_size=4)
    module.network = build_backbone("resnet20", num_classes=3, norm_layer=NORM)
    return module


def adaptation(frozen_stage: int, domain: str | None) -> nn.Module:
    network = build_network(
        "resnet20", norm="bgn", num_groups=4, num_classes=3, batch_size=4, weights=None, conversion="fold"
    )
    network.frozen_stage = frozen_stage
    if domain is not None:
        network.forward = lambda images: network.answer(images, domain=domain).logits
    return network


NETWORKS = {
    "classification": classification,
    "adversarial": lambda: WideResNet(norm_layer=NORM),
    "fewshot": lambda: ResNet12(norm_layer=NORM, widths=(8, 8, 16, 16)),
    "nas, search": lambda: SearchNetwork(channels=4, num_cells=3, num_nodes=2, norm_layer=NORM, stem_norm=NORM),
    "nas, evaluation": lambda: EvaluationNetwork(PUBLISHED["DARTS_V2"], channels=4, num_cells=3, norm_layer=NORM),
    "uda": lambda: adaptation(0, None),
    "uda, answer": lambda: adaptation(0, "target"),
}


def maps(network):
    """What the norms of a network see that has more than one channel and position."""
    seen = []
    for layer in network.modules():
        if type(layer).__name__ == "BatchGroupNorm":
            layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.rand(4, 3, 32, 32))
    return [x for x in seen if x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1]


@pytest.mark.parametrize("has_kernel", [True, False])
@pytest.mark.parametrize("task", NETWORKS)
def test_norms_see_channels_last_where_they_have_a_kernel_for_it(task, has_kernel, monkeypatch):
    monkeypatch.setattr("shared.backbones.layout.cpu_functions", lambda: {"some": "functions"} if has_kernel else {})
    seen = maps(NETWORKS[task]())
    assert len(seen) >= 7
    is_last = has_kernel or task.startswith("nas")
    assert all(x.is_contiguous(memory_format=torch.channels_last) is is_last for x in seen)
