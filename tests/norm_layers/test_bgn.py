"""Batch group norm as a module: shapes that do not fit, other resolutions, buffers, loading, torch's tools."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from norm_layers import BatchGroupNorm, frozen_statistics, make_norm


def bgn(num_channels=8, num_groups=4, **options):
    return make_norm("bgn", num_channels, num_groups=num_groups, **options)


def test_uneven_groups_are_logged_once(log):
    for _ in range(2):
        for _ in range(3):
            bgn(36, 256)(torch.randn(2, 36, 5, 5))
    assert log() == [
        "BatchGroupNorm: G=256 does not divide C·H·W=900 (C=36, spatial (5, 5)); groups of 4 and 3 elements."
    ]


def test_groups_that_divide_are_not_logged(log):
    bgn(36, 256)(torch.randn(2, 36, 32, 32))
    bgn(8, 4)(torch.randn(2, 8, 3, 3))
    assert log() == []


def test_uneven_error():
    norm = bgn(36, 256, uneven="error")
    norm(torch.randn(2, 36, 32, 32))
    with pytest.raises(
        ValueError, match=r"num_groups must divide.*got N=2, C=36, H=5, W=5, D=900, G=256\. Take another"
    ):
        norm(torch.randn(2, 36, 5, 5))


@pytest.mark.parametrize("training", [True, False])
def test_more_groups_than_elements(training, reference):
    with pytest.raises(
        ValueError, match=r"num_groups must be at most D = C·H·W; got N=4, C=256, H=1, W=1, D=256, G=512"
    ):
        bgn(256, 512).train(training)(torch.randn(4, 256, 1, 1))
    clamped = bgn(6, 16, uneven="clamp").double()
    x = torch.randn(4, 6, 2, 1, dtype=torch.float64)
    expected, found = reference(x, "bgn", num_groups=12)
    torch.testing.assert_close(clamped(x), expected, rtol=1e-12, atol=1e-12)
    means = clamped.statistics.running_mean
    torch.testing.assert_close(means[:12], torch.tensor([0.1 * mean for mean, *_ in found], dtype=torch.float64))
    assert torch.equal(means[12:], torch.zeros(4, dtype=torch.float64))


def test_clamped_to_one_group_per_channel_is_batch_norm():
    clamped, plain = bgn(8, 16, uneven="clamp"), nn.BatchNorm2d(8)
    x = torch.randn(4, 8, 1, 1)
    assert torch.equal(clamped(x), plain(x))
    assert torch.equal(clamped.statistics.running_var, torch.cat([plain.running_var, torch.ones(8)]))
    assert torch.equal(clamped.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("shape", "num_groups", "sizes"),
    [
        ((1, 8, 2, 2), 32, "N=1, C=8, H=2, W=2, D=32, G=32"),
        ((1, 8, 1, 1), 8, "N=1, C=8, H=1, W=1, D=8, G=8"),
        ((1, 8), 5, "N=1, C=8, D=8, G=5"),
    ],
)
def test_one_value_per_statistic_in_training(shape, num_groups, sizes):
    norm = bgn(8, num_groups)
    with pytest.raises(ValueError, match=rf"Expected more than 1 value per channel .* got {sizes}, which is 1 value"):
        norm(torch.randn(shape))
    assert norm.statistics.num_batches_tracked == 0
    norm.eval()(torch.randn(shape))


def test_bn_names_its_sizes_too():
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel .* got N=1, C=8, H=1, W=1"):
        make_norm("bn", 8)(torch.randn(1, 8, 1, 1))


def test_another_resolution_in_evaluation_is_logged_where_groups_are_places(log):
    bands, channels = bgn(8, 16), bgn(8, 4)
    for norm in (bands, channels):
        norm(torch.randn(2, 8, 4, 4))
        norm.eval()
        norm(torch.randn(2, 8, 4, 4))
        assert log() == []
    channels(torch.randn(2, 8, 6, 6))
    assert log() == []
    for _ in range(2):
        bands(torch.randn(2, 8, 6, 6))
    assert log() == [
        "BatchGroupNorm: G=16 ties running statistics to places in the map (C=8); trained at spatial (4, 4), "
        "evaluated at (6, 6)."
    ]


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 8, 4), (2, 8, 2, 3, 4), (2, 8)])
def test_the_resolution_of_training_is_saved(shape, log, tmp_path):
    num_groups = 16 if len(shape) > 2 else 5
    trained = nn.Sequential(bgn(8, num_groups))
    trained(torch.randn(shape))
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    loaded = nn.Sequential(bgn(8, num_groups)).eval()
    loaded.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    loaded(torch.randn(shape))
    messages = log()
    loaded(torch.randn(2, 8, 6, 6))
    new = [message for message in log() if message not in messages and "ties running" in message]
    assert new == [
        f"BatchGroupNorm: G={num_groups} ties running statistics to places in the map (C=8); trained at spatial "
        f"{shape[2:]}, evaluated at (6, 6)."
    ]
    virtual = nn.Sequential(bgn(8, num_groups, virtual_workers=2))
    virtual.load_state_dict(trained.state_dict())
    assert virtual.state_dict().keys() == trained.state_dict().keys()
    assert torch.equal(virtual[0].norm.get_extra_state(), trained[0].get_extra_state())


def test_states_without_the_resolution_load_strictly(log):
    trained = nn.Sequential(bgn(8, 16))
    trained(torch.randn(2, 8, 4, 4))
    older = {key: value for key, value in trained.state_dict().items() if "extra" not in key}
    assert list(older) == [
        "0.weight",
        "0.bias",
        "0.statistics.running_mean",
        "0.statistics.running_var",
        "0.statistics.num_batches_tracked",
    ]
    for state in (older, nn.Sequential(nn.BatchNorm2d(8)).state_dict()):
        for net in (copy.deepcopy(trained).eval(), nn.Sequential(bgn(8, 16, virtual_workers=2)).eval()):
            result = net.load_state_dict(state)
            assert (result.missing_keys, result.unexpected_keys) == ([], [])
            net(torch.randn(2, 8, 6, 6))
    assert log() == []
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*\"0\.weight\"\. $"):
        trained.load_state_dict({key: value for key, value in older.items() if key != "0.weight"})


def test_the_resolution_is_that_of_batches_that_moved_the_statistics():
    norm = bgn(8, 16)
    assert norm.get_extra_state().tolist() == [0, 0, 0]
    norm(torch.randn(2, 8, 4, 4))
    with frozen_statistics(norm, mode="train"):
        norm(torch.randn(2, 8, 6, 6))
    norm.eval()(torch.randn(2, 8, 6, 6))
    assert norm.get_extra_state().tolist() == [4, 4, -1]
    norm.reset_parameters()
    assert norm.get_extra_state().tolist() == [0, 0, 0]
    untracked = bgn(8, 16, track_running_stats=False)
    untracked(torch.randn(2, 8, 4, 4))
    assert untracked.get_extra_state().tolist() == [0, 0, 0]


def test_momentum_none_is_the_average_over_batches(reference):
    norm = bgn(momentum=None).double()
    batches = torch.randn(4, 3, 8, 2, 2, dtype=torch.float64)
    for batch in batches:
        norm(batch)
    means = [[mean for mean, *_ in reference(batch, "bgn", num_groups=4)[1]] for batch in batches]
    torch.testing.assert_close(
        norm.statistics.running_mean, torch.tensor(means, dtype=torch.float64).mean(0), rtol=1e-12, atol=1e-12
    )
    assert norm.statistics.num_batches_tracked == 4


def test_running_variance_by_the_letter_of_equation_9():
    x = torch.randn(2, 8, 1, 1, dtype=torch.float64)
    unbiased, literal = bgn(8, 4).double(), bgn(8, 4, unbiased_running_var=False).double()
    assert torch.equal(unbiased(x), literal(x))
    n = 2 * 8 / 4
    torch.testing.assert_close(
        literal.statistics.running_var - 0.9, (unbiased.statistics.running_var - 0.9) * (n - 1) / n
    )
    assert torch.equal(unbiased.statistics.running_mean, literal.statistics.running_mean)


def test_tracking_switched_off_at_run_time_is_honoured():
    norm = bgn()
    norm(torch.randn(4, 8, 4, 4))
    before = copy.deepcopy(norm.state_dict())
    norm.statistics.track_running_stats = False
    x = torch.randn(4, 8, 4, 4) * 3
    assert norm(x).std().item() == pytest.approx(1.0, abs=0.02)
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())
    assert norm.eval()(x).std() > 2


def test_reset_parameters(randomised):
    norm = randomised(bgn())
    norm.reset_parameters()
    for key, value in bgn().state_dict().items():
        assert torch.equal(norm.state_dict()[key], value)


@pytest.mark.parametrize("num_groups", [1, 4, 8, 16, 3, 5])
def test_batch_norm_checkpoints_load_and_keep_the_output(num_groups, randomised):
    old = randomised(nn.BatchNorm2d(8).double()).eval()
    old.num_batches_tracked.fill_(7)
    net, old_net = nn.Sequential(bgn(8, num_groups).double()).eval(), nn.Sequential(old)
    net.load_state_dict(old_net.state_dict())
    for side in (4, 7):
        x = torch.randn(3, 8, side, side, dtype=torch.float64)
        torch.testing.assert_close(net(x), old(x), rtol=1e-12, atol=1e-12)
    assert net[0].statistics.num_batches_tracked == 7
    assert "0.running_mean" in old_net.state_dict()


def test_batch_norm_checkpoints_that_cannot_be_folded():
    with pytest.raises(RuntimeError, match="running_mean of a batch norm must have 8 elements; got"):
        bgn(8).load_state_dict(nn.BatchNorm2d(6).state_dict())
    for num_groups in (4, 16):
        with pytest.raises(
            RuntimeError, match=f"affine must be True to fold a batch norm of 8 channels into {num_groups} groups"
        ):
            bgn(8, num_groups, affine=False).load_state_dict(nn.BatchNorm2d(8, affine=False).state_dict())
    with pytest.raises(RuntimeError, match="track_running_stats must be True"):
        bgn(8, track_running_stats=False).load_state_dict(nn.BatchNorm2d(8).state_dict())
    bgn(8, 8, affine=False).load_state_dict(nn.BatchNorm2d(8, affine=False).state_dict())


def test_buffers_are_found_by_tools_that_look_for_their_names():
    names = [name for name, _ in nn.Sequential(bgn()).named_buffers()]
    for part in ("running_mean", "running_var", "num_batches_tracked"):
        assert sum(part in name for name in names) == 1
    owners = [type(module).__name__ for module in bgn().modules() if "running_mean" in module._buffers]
    assert len(owners) == 1
    assert "BatchNorm" in owners[0]


def test_convert_sync_batchnorm_makes_a_synchronised_bgn(randomised):
    norm = randomised(bgn())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(copy.deepcopy(norm)))
    assert isinstance(converted[0], BatchGroupNorm)
    assert isinstance(converted[0].statistics, nn.SyncBatchNorm)
    assert list(converted.state_dict()) == [f"0.{key}" for key in norm.state_dict()]
    x = torch.randn(4, 8, 4, 4)
    torch.testing.assert_close(converted.eval()(x), norm.eval()(x))
    assert converted.bfloat16()[0].statistics.running_mean.dtype == torch.float32
    uneven = nn.SyncBatchNorm.convert_sync_batchnorm(bgn(8, 5))
    with pytest.raises(ValueError, match=r"num_groups must divide.*nn\.SyncBatchNorm.*synchronise_statistics"):
        uneven(x)


def test_convert_sync_batchnorm_cannot_do_the_literal_running_variance():
    x = torch.randn(4, 8, 4, 4)
    norm = nn.SyncBatchNorm.convert_sync_batchnorm(bgn(unbiased_running_var=False))
    with pytest.raises(
        ValueError, match=r"unbiased_running_var must be True under nn\.SyncBatchNorm.*got False\. Use"
    ):
        norm(x)
    torch.testing.assert_close(norm.eval()(x), x / (1 + 1e-5) ** 0.5)


@pytest.mark.parametrize("num_groups", [1, 4, 8, 16, 5])
def test_update_bn_recomputes_the_statistics(num_groups):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), bgn(8, num_groups)).double()
    batches = [torch.randn(4, 3, 6, 6, dtype=torch.float64) for _ in range(5)]
    torch.optim.swa_utils.update_bn(batches, net)
    owner = net[1].statistics
    assert owner.num_batches_tracked == 5
    assert owner.momentum == 0.1
    means = []
    for batch in batches:
        flat = net[0](batch).flatten(1)
        means.append(torch.stack([part.mean() for part in flat.tensor_split(num_groups, dim=1)]))
    torch.testing.assert_close(owner.running_mean, torch.stack(means).mean(0).detach(), rtol=1e-12, atol=1e-12)


def test_functional_replacement_of_batch_norm_and_ensembles():
    net = torch.func.replace_all_batch_norm_modules_(nn.Sequential(nn.Conv2d(3, 8, 3), bgn(8, 5)))
    assert list(net.buffers()) == []
    stacked, _ = torch.func.stack_module_state([net, copy.deepcopy(net)])
    x = torch.randn(2, 4, 3, 6, 6)
    y = torch.func.vmap(lambda parameters, part: torch.func.functional_call(net, parameters, (part,)))(stacked, x)
    torch.testing.assert_close(y, torch.stack([net(part) for part in x]))


def test_lightning_freezing_stops_the_statistics():
    callbacks = pytest.importorskip("pytorch_lightning.callbacks", exc_type=ImportError)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), bgn())
    callbacks.BaseFinetuning.freeze(net, train_bn=False)
    before = copy.deepcopy(net.state_dict())
    net.train()
    net(torch.randn(4, 3, 8, 8))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    callbacks.BaseFinetuning.make_trainable(net)
    net(torch.randn(4, 3, 8, 8))
    assert not torch.equal(before["1.statistics.running_mean"], net.state_dict()["1.statistics.running_mean"])


def test_statistics_child_in_evaluation_decides_for_the_layer():
    """Attack libraries put modules with "BatchNorm" in their class name into eval mode and leave the rest."""
    norm = bgn()
    for module in norm.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    assert norm.training
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(4, 8, 4, 4)
    torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


def test_only_the_child_is_a_batch_norm_for_torch():
    assert [isinstance(module, _BatchNorm) for module in bgn().modules()] == [False, True]


def test_instance_norm_on_one_pixel_is_dead_and_says_so(log):
    norm = make_norm("in", 8)
    with torch.no_grad():
        norm.bias.fill_(0.5)
    for _ in range(2):
        for training in (True, False):
            y = norm.train(training)(torch.randn(1, 8, 1, 1))
            torch.testing.assert_close(y, torch.full((1, 8, 1, 1), 0.5), rtol=0, atol=1e-4)
    assert len(log()) == 1
    assert log()[0].startswith("InstanceNorm: maps of 1 pixel (C=8) have one value per statistic")


def test_group_norm_fallbacks(log):
    x = torch.randn(2, 36, 4, 4, dtype=torch.float64)
    flat = make_norm("gn", 36).double()
    expected = nn.functional.group_norm(x.reshape(2, 32, 18), 32).reshape(x.shape)
    torch.testing.assert_close(flat(x), expected, rtol=1e-12, atol=1e-12)
    make_norm("gn", 36)
    assert log() == ["GroupNorm: G=32 does not divide C=36; taking 32 flat groups over C·H·W."]
    divisor = make_norm("gn", 36, fallback="divisor").double()
    torch.testing.assert_close(divisor(x), nn.GroupNorm(18, 36).double()(x), rtol=1e-12, atol=1e-12)
    assert log()[1] == "GroupNorm: G=32 does not divide C=36; taking 18 groups, the largest divisor below it."
    assert [make_norm("gn", c, fallback="divisor").num_groups for c in (72, 108, 144, 16, 48)] == [24, 27, 24, 16, 24]
    with pytest.raises(
        ValueError, match=r"num_groups must be at most D = C·H·W; got N=2, C=16, H=1, W=1, D=16, G=32"
    ) as error:
        make_norm("gn", 16)(torch.randn(2, 16, 1, 1))
    assert str(error.value).endswith("Take fewer groups, or fallback='divisor' for a divisor of C.")
    assert make_norm("gn", 16, fallback="divisor")(torch.randn(2, 16, 1, 1)).shape == (2, 16, 1, 1)


def test_ghost_batches_must_divide_the_batch():
    norm = make_norm("gbgn", 8, num_groups=4, ghost_size=2)
    norm(torch.randn(4, 8, 2, 2))
    norm(torch.randn(1, 8, 2, 2))
    assert norm.statistics.num_batches_tracked == 2
    with pytest.raises(ValueError, match=r"batch size must be a multiple of ghost_size=2, or smaller; got 5\. Drop"):
        norm(torch.randn(5, 8, 2, 2))
    norm.eval()(torch.randn(5, 8, 2, 2))
