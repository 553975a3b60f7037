"""make_norm and norm_factory: options, defaults, outside norms."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

from norm_layers import (
    NORMS,
    BatchGroupNorm,
    BatchNorm,
    GeneralBatchGroupNorm,
    GroupNorm,
    NormFactory,
    VirtualWorkerNorm,
    audit_norms,
    batch_group_norm,
    convert_norm,
    frozen_statistics,
    make_norm,
    norm_factory,
)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module with norms from outside, importable as `outside_norms`."""
    (tmp_path / "outside_norms.py").write_text(
        "from torch import nn\n"
        "class Plain(nn.Module):\n"
        "    def __init__(self, channels):\n"
        "        super().__init__()\n"
        "        self.channels = channels\n"
        "class Grouped(nn.Module):\n"
        "    def __init__(self, channels, num_groups=7, eps=0.5):\n"
        "        super().__init__()\n"
        "        self.channels, self.num_groups, self.eps = channels, num_groups, eps\n"
        "def build(channels, affine):\n"
        "    return nn.BatchNorm2d(channels, affine=affine)\n"
        "def number(channels):\n"
        "    return channels\n"
        "def broken(channels):\n"
        "    raise RuntimeError(f'cannot do\\n{channels}')\n"
        "def wide(channels, width):\n"
        "    return nn.Identity()\n"
        "def clash(num_groups, channels):\n"
        "    return nn.Identity()\n"
        "class Activated(nn.Module):\n"
        "    def __init__(self, channels):\n"
        "        super().__init__()\n"
        "        self.bn, self.act = nn.BatchNorm2d(channels), nn.ReLU()\n"
        "    def forward(self, x):\n"
        "        return self.act(self.bn(x))\n"
        "class MyNorm(Activated):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", list(NORMS))
def test_common_options_reach_the_layer(name):
    options = {"num_groups": 4} if NORMS[name].has_groups else {}
    norm = make_norm(name, 8, eps=1e-3, momentum=0.2, affine=False, **options)
    if name != "none":
        assert norm.eps == 1e-3
    assert norm.weight is None
    if NORMS[name].has_running_statistics:
        owner = getattr(norm, "statistics", norm)
        assert (owner.eps, owner.momentum) == (1e-3, 0.2)


def test_default_group_numbers_are_resolved():
    assert make_norm("bgn", 64, batch_size=16).num_groups == 64
    assert make_norm("bgn", 64, batch_size=16, num_groups=3).num_groups == 3
    assert make_norm("gn", 64).num_groups == 32
    assert make_norm("gbgn", 64, batch_size=2).num_groups == 32
    with pytest.raises(ValueError, match="batch_size must be given"):
        norm_factory("bgn")


@pytest.mark.parametrize(
    ("name", "option", "value", "having"),
    [
        ("bn", "num_groups", 8, "gn, gbgn, bgn"),
        ("none", "num_groups", 8, "gn, gbgn, bgn"),
        ("bgn", "fallback", "flat", "gn"),
        ("gn", "uneven", "split", "gbgn, bgn"),
        ("bn", "unbiased_running_var", False, "gbgn, bgn"),
        ("bgn", "ghost_size", 2, "gbgn"),
    ],
)
def test_option_that_a_norm_lacks(name, option, value, having):
    groups = {"num_groups": 2} if NORMS[name].has_groups and option != "num_groups" else {}
    with pytest.raises(ValueError, match=f"{option} must be None for norm '{name}', which does not have it") as error:
        norm_factory(name, **groups, **{option: value})
    assert str(error.value).endswith(f"got {value!r}. Norms with {option}: {having}.")


def test_own_options_reach_the_layer():
    assert make_norm("gn", 36, fallback="divisor").num_groups == 18
    assert make_norm("bgn", 8, num_groups=4, uneven="error").uneven == "error"
    assert make_norm("gbgn", 8, num_groups=4, unbiased_running_var=False).unbiased_running_var is False
    assert make_norm("gbgn", 8, num_groups=4, ghost_size=2).ghost_size == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bgn", {"num_groups": 4, "uneven": "floor"}, "uneven must be one of split, error, clamp; got 'floor'."),
        ("gn", {"fallback": "gcd"}, "fallback must be one of flat, divisor, error; got 'gcd'."),
        ("gbgn", {"ghost_size": 0}, "ghost_size must be positive; got 0."),
        ("bn", {"virtual_workers": 0}, "virtual_workers must be positive; got 0."),
        ("bgn", {"num_groups": 0}, "num_groups must be positive; got 0."),
        ("bgn", {"batch_size": -1}, "batch_size must be at least 1; got -1."),
        ("ln", {"eps": -1.0}, "eps must be positive; got -1.0."),
        ("bn", {"momentum": 2.0}, "momentum must be from 0 to 1, or None for a plain average; got 2.0."),
    ],
)
def test_values_out_of_range_are_refused_by_the_factory_already(unchecked, name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        norm_factory(name, **options)
    assert str(error.value) == message


def test_layers_refuse_the_same_values(unchecked):
    with pytest.raises(ValueError, match="uneven must be one of split, error, clamp; got 'floor'"):
        BatchGroupNorm(8, num_groups=4, uneven="floor")
    with pytest.raises(ValueError, match="fallback must be one of flat, divisor, error; got 'gcd'"):
        GroupNorm(8, num_groups=4, fallback="gcd")
    with pytest.raises(ValueError, match="ghost_size must be positive; got 0"):
        GeneralBatchGroupNorm(8, num_groups=4, ghost_size=0)
    with pytest.raises(ValueError, match="num_workers must be positive; got 0"):
        VirtualWorkerNorm(BatchNorm(8), 0)
    with pytest.raises(ValueError, match="running_statistics must be one of rank0, mean; got 'rank1'"):
        VirtualWorkerNorm(BatchNorm(8), 2, running_statistics="rank1")
    with (
        pytest.raises(ValueError, match="mode must be one of eval, train; got 'off'"),
        frozen_statistics(BatchNorm(8), mode="off"),
    ):
        pass
    with pytest.raises(ValueError, match="statistics must be one of fold, repeat, pool, fresh; got 'drop'"):
        convert_norm(BatchNorm(8), "bgn", num_groups=4, statistics="drop")
    with pytest.raises(ValueError, match="running_mean and running_var must be tensors where training is False"):
        batch_group_norm(torch.randn(2, 8, 2, 2), None, None, None, None, num_groups=4, training=False)


def test_group_norm_without_fallback_needs_a_divisor():
    with pytest.raises(
        ValueError, match=r"num_groups must divide num_channels under fallback='error'; got 32 groups for"
    ):
        make_norm("gn", 36, fallback="error")
    assert make_norm("gn", 64, fallback="error").num_groups == 32


def test_misspelt_options_are_refused():
    with pytest.raises(TypeError, match="num_group"):
        make_norm("bgn", 8, num_group=4)
    with pytest.raises(TypeError, match="num_group"):
        norm_factory("bgn", num_group=4)


def test_factory_is_a_value():
    factory = norm_factory("bgn", batch_size=8, eps=1e-3)
    assert repr(factory) == "norm_factory('bgn', batch_size=8, eps=0.001)"
    assert factory == copy.deepcopy(factory) == pickle.loads(pickle.dumps(factory))
    assert isinstance(factory, NormFactory)
    assert factory(32).num_groups == 16
    assert repr(norm_factory("in")) == "norm_factory('in')"


def test_virtual_workers_wrap_norms_with_batch_statistics_only():
    for name, spec in NORMS.items():
        groups = {"num_groups": 4} if spec.has_groups else {}
        assert isinstance(make_norm(name, 8, virtual_workers=2, **groups), VirtualWorkerNorm) == (
            spec.has_running_statistics
        )
        assert not isinstance(make_norm(name, 8, virtual_workers=1, **groups), VirtualWorkerNorm)
    assert isinstance(make_norm("torch.nn:BatchNorm2d", 8, virtual_workers=2), VirtualWorkerNorm)
    assert isinstance(make_norm("torch.nn:GroupNorm", 8, num_groups=2, virtual_workers=2), nn.GroupNorm)


def test_outside_norms_get_what_their_signature_names(outside):
    assert make_norm("outside_norms:Plain", 8).channels == 8
    grouped = make_norm("outside_norms:Grouped", 8, eps=1e-4, batch_size=4)
    assert (grouped.num_groups, grouped.eps) == (7, 1e-4)
    assert make_norm("outside_norms:Grouped", 8, num_groups=2).num_groups == 2
    assert make_norm("outside_norms:build", 8, affine=False).weight is None
    assert torch.equal(make_norm("torch.nn:GroupNorm", 8, num_groups=2).weight, torch.ones(8))
    with pytest.raises(ValueError, match="num_groups must be None for norm 'outside_norms:Plain'"):
        make_norm("outside_norms:Plain", 8, num_groups=2)
    with pytest.raises(ValueError, match=r"norm must build an nn\.Module; got a int from 'outside_norms:number'"):
        make_norm("outside_norms:number", 8)


@pytest.mark.parametrize("kind", ["Activated", "MyNorm"])
def test_virtual_workers_reach_a_batch_norm_inside_an_outside_norm(outside, kind):
    torch.manual_seed(0)
    norm = make_norm(f"outside_norms:{kind}", 8, virtual_workers=2)
    plain = make_norm(f"outside_norms:{kind}", 8)
    assert isinstance(norm, VirtualWorkerNorm)
    assert norm.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(4, 8, 3, 3)
    workers = [copy.deepcopy(plain) for _ in range(2)]
    expected = torch.cat([worker(part) for worker, part in zip(workers, x.chunk(2))])
    assert torch.equal(norm(x), expected)
    for key, value in workers[0].state_dict().items():
        assert torch.equal(norm.state_dict()[key], value)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(x), plain.eval()(x))
    (audit,) = audit_norms(nn.Sequential(norm), torch.randn(8, 8, 3, 3))
    assert (audit.layer, audit.norm, audit.batch_size, audit.values_per_statistic) == ("0.norm.bn", "bn", 4, 36)
    assert audit_norms(nn.Sequential(norm), torch.randn(1, 8, 3, 3))[0].values_per_statistic == 9
    (audit,) = audit_norms(nn.Sequential(plain), torch.randn(8, 8, 3, 3))
    assert (audit.layer, audit.norm, audit.batch_size, audit.values_per_statistic) == ("0.bn", "bn", 8, 72)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "torch.nn:GroupNorm",
            {},
            "norm 'torch.nn:GroupNorm' must be callable with num_channels and the options given; got no value for "
            "num_groups. Give num_groups.",
        ),
        (
            "outside_norms:wide",
            {},
            "norm 'outside_norms:wide' must be callable with num_channels and the options given; got no value for "
            "width. Wrap it in a function of num_channels that gives them.",
        ),
        (
            "outside_norms:clash",
            {"num_groups": 2},
            "norm 'outside_norms:clash' must be callable with num_channels and num_groups; got multiple values for "
            "argument 'num_groups'. Wrap it in a function.",
        ),
    ],
)
def test_outside_norms_that_need_more_are_refused_by_the_factory(outside, name, options, message):
    with pytest.raises(ValueError, match="must be callable with num_channels") as error:
        norm_factory(name, **options)
    assert str(error.value) == message


def test_outside_norms_that_fail_are_named_in_one_line(outside):
    with pytest.raises(ValueError, match="must build from") as error:
        make_norm("outside_norms:broken", 8)
    assert str(error.value) == (
        "norm 'outside_norms:broken' must build from num_channels=8; got RuntimeError: cannot do 8"
    )
    assert isinstance(error.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match=r"must build from num_channels=8, eps=1e-05.*num_groups=3; got ValueError"):
        make_norm("torch.nn:GroupNorm", 8, num_groups=3)
