"""The paper's numbers, from the paper."""

import functools

import pytest
import pytorch_lightning as pl
import torch

from classification import protocol
from classification.data import ClassificationData
from classification.module import ClassificationModule
from norm_layers.registry import default_num_groups
from shared.runs import PaperCell, wilson_interval

PAPER_GROUPS = {128: 512, 64: 256, 32: 128, 16: 64, 8: 16, 4: 2, 2: 1}


@pytest.mark.parametrize(("batch_size", "rate"), protocol.LEARNING_RATES.items())
def test_learning_rates_are_the_paper_s(batch_size, rate):
    assert protocol.learning_rate(8 * batch_size) == pytest.approx(rate, abs=0)
    assert default_num_groups("bgn", batch_size=batch_size) == PAPER_GROUPS[batch_size]


def test_the_schedule_at_its_edges():
    steps = 1251
    for epoch, factor in {0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01, 89: 0.01, 90: 0.001, 119: 0.001}.items():
        for step in (epoch * steps, (epoch + 1) * steps - 1):
            assert protocol.learning_rate_factor(step, steps_per_epoch=steps) == pytest.approx(factor, rel=1e-12)


def test_warmup_rises_linearly_to_the_initial_rate():
    factors = [protocol.learning_rate_factor(step, steps_per_epoch=10, warmup_epochs=5) for step in range(51)]
    assert factors[:50] == pytest.approx([(step + 1) / 50 for step in range(50)])
    assert factors[50] == 1


@pytest.mark.parametrize(
    ("world_size", "virtual_workers", "micro_batches"), [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8), (4, 1, 2)]
)
def test_accumulation_makes_up_for_missing_workers(world_size, virtual_workers, micro_batches):
    assert (
        protocol.accumulation(total_workers=8, world_size=world_size, virtual_workers=virtual_workers) == micro_batches
    )


def test_workers_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"total_workers must be a multiple of processes × virtual_workers = 3 × 1; got 8\."
    ):
        protocol.accumulation(total_workers=8, world_size=3, virtual_workers=1)


def test_headline_is_the_median_of_the_last_five_epochs():
    assert protocol.headline_accuracy([99.0, 1.0, 5.0, 3.0, 2.0, 4.0]) == 3.0
    assert protocol.headline_accuracy([1.0, 2.0]) == 1.5


def test_wilson_interval_against_published_values():
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 and 15 of 148, method 3."""
    assert wilson_interval(81, 263) == pytest.approx((25.53, 36.62), abs=0.005)
    assert wilson_interval(15, 148) == pytest.approx((6.24, 16.05), abs=0.005)
    assert wilson_interval(0, 20) == pytest.approx((0, 16.11), abs=0.005)


def test_the_paper_s_network_and_optimiser():
    module = ClassificationModule(norm="bgn", batch_size=32)
    data = ClassificationData(num_classes=1000, train_images=1000, test_images=1000, batch_size=32, image_size=16)
    data.open()
    module.build(data)
    assert sum(parameter.numel() for parameter in module.network.parameters()) == 25_557_032
    assert module.groups_in_force() == 128

    module.steps_per_epoch = 5004
    optimizer = module.configure_optimizers()["optimizer"]
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(module.network.parameters()))
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.1, 0.9, 1e-4, False)
    gammas = [m.weight for m in module.network.modules() if type(m).__name__ == "BatchGroupNorm"]
    assert len(gammas) == 53
    assert all(torch.equal(gamma, torch.ones_like(gamma)) for gamma in gammas)


@functools.cache
def images() -> ClassificationData:
    """Data of 1,000 classes that differ in nothing from the paper's."""
    data = ClassificationData(num_classes=1000, train_images=1000, test_images=1000, image_size=16)
    data.open()
    data.differences_from_paper = list
    return data


def cell(norm: str = "bgn", **settings) -> PaperCell | None:
    """The paper's cell of a run that only its settings keep from being the paper's."""
    module = ClassificationModule(norm=norm, **({"batch_size": 32} | settings))
    module.trainer = pl.Trainer(max_epochs=120, accelerator="cpu", logger=False, enable_checkpointing=False)
    module.steps_per_epoch = module.num_batches_per_process = 5
    return next(iter(module._paper_cells(images())), None)


def test_the_paper_s_own_settings_are_comparable():
    assert (cell().table, cell().comparable, cell().setting) == (2, True, {"batch_size": 32})
    assert cell(num_groups=1, batch_size=2).table == 2
    assert (cell(num_groups=8, batch_size=2).table, cell(num_groups=8, batch_size=2).comparable) == (1, True)
    assert cell(num_groups=8, batch_size=32) is None
    assert cell(batch_size=24) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"norm": "gn", "num_groups": 16}, "G = 16, not 32"),
        ({"stem": "conv3"}, "stem conv3, not conv7"),
        ({"label_smoothing": 0.1}, "label smoothing 0.1, not 0.0"),
        ({"warmup_epochs": 5}, "warm-up epochs 5, not 0"),
        ({"zero_init_residual": True}, "zero-init residual True, not False"),
        ({"momentum": 0.5}, "momentum 0.5, not 0.9"),
        ({"weight_decay": 0.0}, "weight decay 0.0, not 0.0001"),
        ({"learning_rate": 0.1}, "its own learning rate"),
        ({"total_workers": 4}, "workers 4, not 8"),
        ({"milestones": (30, 60)}, "milestones (30, 60), not (30, 60, 90)"),
        ({"backbone": "resnet18"}, "network resnet18, not resnet50"),
    ],
)
def test_any_other_setting_is_not_comparable(settings, reason):
    assert not cell(**settings).comparable
    assert reason in cell(**settings).why
