"""The norm audit: what it tells and that it leaves no trace."""

import copy
import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from norm_layers import VirtualWorkerNorm, audit_norms, make_norm, norm_factory, summarise_audit
from norm_layers.audit import describe_norm


def one(norm, shape):
    return describe_norm("layer", norm, shape)


@pytest.mark.parametrize(
    ("name", "options", "shape", "expected"),
    [
        # facts of the layer table: (num_groups, values per statistic, straddling, fallback, equivalent)
        ("bgn", {"num_groups": 512}, (2, 64, 112, 112), (512, 2 * 802816 // 512, False, None, None)),
        ("bgn", {"num_groups": 512}, (2, 512, 7, 7), (512, 98, False, None, "=BN")),
        ("bgn", {"num_groups": 512}, (2, 2048, 7, 7), (512, 392, False, None, None)),
        ("bgn", {"num_groups": 256}, (96, 36, 32, 32), (256, 96 * 144, True, None, None)),
        ("bgn", {"num_groups": 256}, (96, 128, 2, 2), (256, 192, False, None, None)),
        ("bgn", {"num_groups": 512}, (2, 64, 42, 42), (512, 440, True, "split", None)),
        ("bgn", {"num_groups": 512, "uneven": "clamp"}, (8, 256, 1, 1), (256, 8, False, "clamp", "=BN")),
        ("bgn", {"num_groups": 1}, (2, 64, 8, 8), (1, 8192, False, None, None)),
        ("gbgn", {}, (4, 64, 8, 8), (32, 512, False, None, None)),
        ("gbgn", {}, (4, 32, 8, 8), (32, 256, False, None, "=BN")),
        ("gbgn", {"ghost_size": 2}, (4, 32, 8, 8), (32, 128, False, None, None)),
        ("gn", {}, (4, 64, 8, 8), (32, 128, False, None, None)),
        ("gn", {}, (4, 32, 8, 8), (32, 64, False, None, "=IN")),
        ("gn", {"num_groups": 1}, (4, 32, 8, 8), (1, 2048, False, None, "=LN")),
        ("gn", {}, (4, 36, 32, 32), (32, 1152, True, "flat", None)),
        ("gn", {"num_groups": 128}, (4, 16, 32, 32), (128, 128, False, "flat", None)),
        ("gn", {"fallback": "divisor"}, (4, 36, 32, 32), (18, 2048, False, "divisor", None)),
        ("bn", {}, (4, 36, 8, 8), (None, 256, False, None, None)),
        ("in", {}, (4, 36, 8, 8), (None, 64, False, None, None)),
        ("ln", {}, (4, 36, 8, 8), (None, 2304, False, None, None)),
        ("pn", {}, (4, 36, 8, 8), (None, 36, False, None, None)),
        ("pn", {}, (4, 36, 1, 1), (None, 36, False, None, "=LN")),
        ("none", {}, (4, 36, 8, 8), (None, None, False, None, None)),
    ],
)
def test_layers_of_the_papers_nets(name, options, shape, expected):
    audit = one(make_norm(name, shape[1], **options), shape)
    assert (audit.norm, audit.batch_size, audit.channels, audit.height, audit.width) == (
        name,
        options.get("ghost_size", shape[0]),
        *shape[1:],
    )
    assert (
        audit.num_groups,
        audit.values_per_statistic,
        audit.straddling,
        audit.fallback,
        audit.equivalent,
    ) == expected


def test_virtual_workers_count_their_part_of_the_batch():
    audit = one(make_norm("bgn", 8, num_groups=4, virtual_workers=4), (16, 8, 2, 2))
    assert (audit.norm, audit.batch_size, audit.values_per_statistic) == ("bgn", 4, 32)


def test_torch_layers_and_outside_norms():
    assert one(nn.BatchNorm2d(8), (4, 8, 2, 2)).norm == "bn"
    assert one(nn.SyncBatchNorm(8), (4, 8, 2, 2)).norm == "bn"
    assert one(nn.InstanceNorm2d(8), (4, 8, 2, 2)).norm == "in"
    assert one(nn.GroupNorm(8, 8), (4, 8, 2, 2)).equivalent == "=IN"
    unknown = one(nn.LocalResponseNorm(2), (4, 8, 2, 3))
    assert (unknown.norm, unknown.values_per_statistic) == ("torch.nn.modules.normalization:LocalResponseNorm", None)


def test_other_ranks():
    norm = make_norm("bgn", 8, num_groups=4)
    assert (one(norm, (4, 8)).height, one(norm, (4, 8)).width) == (1, 1)
    assert (one(norm, (4, 8, 5)).height, one(norm, (4, 8, 5)).width) == (1, 5)
    assert (one(norm, (4, 8, 2, 3, 5)).height, one(norm, (4, 8, 2, 3, 5)).width) == (6, 5)


class WithAuxiliaryHead(nn.Module):
    """A net whose second head exists in training only, and draws random numbers there."""

    def __init__(self, factory):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), factory(16), nn.ReLU(), nn.Dropout(0.5))
        self.auxiliary = nn.Sequential(nn.AdaptiveAvgPool2d(1), factory(16))

    def forward(self, x, scale=1.0):
        y = self.stem(x) * scale
        return (y, self.auxiliary(y)) if self.training else y


@pytest.mark.parametrize("training", [True, False])
def test_audit_runs_the_net_in_its_mode_and_leaves_no_trace(training):
    net = WithAuxiliaryHead(norm_factory("bgn", num_groups=8)).train(training)
    before, flags = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    state = torch.get_rng_state()
    audits = audit_norms(net, torch.randn(1, 3, 10, 10, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert [audit.layer for audit in audits] == ["stem.1", "auxiliary.1"][: 1 + training]
    assert (audits[0].height, audits[0].width) == (8, 8)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_inputs_by_position_and_by_name():
    net = WithAuxiliaryHead(norm_factory("bn"))
    x = torch.randn(2, 3, 10, 10)
    assert audit_norms(net, (x, 0.5)) == audit_norms(net, {"x": x, "scale": 2.0}) == audit_norms(net, x)


def test_hooks_go_after_a_failure_too():
    net = WithAuxiliaryHead(norm_factory("bn"))
    with pytest.raises(RuntimeError):
        audit_norms(net, torch.randn(2, 5, 10, 10))
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert net.stem[1].training


def test_records_are_json_and_are_counted():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.resnet50(norm_layer=norm_factory("bgn", num_groups=512))
    audits = audit_norms(net, torch.randn(2, 3, 64, 64))
    assert len(audits) == 53
    assert json.loads(json.dumps([asdict(audit) for audit in audits]))[0]["layer"] == "bn1"
    summary = summarise_audit(audits)
    assert sum(row["layers"] for row in summary) == 53
    json.dumps(summary)
    by_equivalence = {}
    for row in summary:
        by_equivalence[row["equivalent"]] = by_equivalence.get(row["equivalent"], 0) + row["layers"]
    assert by_equivalence == {"=BN": 11, None: 42}  # the layer counts of ResNet-50 at G = 512


def test_layer_used_at_two_resolutions_has_two_records():
    norm = make_norm("bn", 3)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return self.norm(self.norm(x)[:, :, ::2, ::2])

    assert [audit.height for audit in audit_norms(Twice(), torch.randn(2, 3, 8, 8))] == [8, 4]


def test_no_statistic_of_zero_values():
    assert one(make_norm("gn", 16), (2, 16, 1, 1)).values_per_statistic is None
    assert one(make_norm("bn", 8, virtual_workers=4), (1, 8, 2, 2)).values_per_statistic == 4
    assert one(make_norm("bgn", 8, num_groups=4, virtual_workers=4), (1, 8, 2, 2)).batch_size == 1


def test_unknown_norms_around_unknown_modules_are_one_layer():
    class MyNorm(nn.Module):
        def forward(self, x):
            return x

    (audit,) = audit_norms(nn.Sequential(MyNorm()), torch.randn(2, 8, 2, 2))
    assert audit.layer == "0"
    assert audit.norm.endswith("MyNorm")
    (audit,) = audit_norms(nn.Sequential(VirtualWorkerNorm(MyNorm(), 2)), torch.randn(4, 8, 2, 2))
    assert (audit.layer, audit.batch_size) == ("0", 2)


class Filter(nn.Module):
    """A norm that is not called one, with a child that is none."""

    def __init__(self, num_channels):
        super().__init__()
        self.gate = nn.Conv2d(num_channels, num_channels, 1)

    def forward(self, x):
        return self.gate(x)


@pytest.mark.parametrize("virtual_workers", [1, 2])
def test_what_a_factory_built_is_a_norm_whatever_it_is_called(virtual_workers):
    build = norm_factory(f"{__name__}:Filter", virtual_workers=virtual_workers)
    network = copy.deepcopy(nn.Sequential(nn.Conv2d(3, 8, 3), build(8)))
    (audit,) = audit_norms(network, torch.randn(4, 3, 6, 6))
    assert (audit.layer, audit.norm, audit.channels) == ("1", f"{__name__}:Filter", 8)
    assert audit_norms(nn.Sequential(Filter(8)), torch.randn(4, 8, 6, 6)) == []
