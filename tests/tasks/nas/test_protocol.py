"""The paper's settings as data: schedules, G, and what the configs ask for."""

import pytest
import yaml

from nas import protocol
from nas.data import NasData
from nas.module import NasModule
from shared.catalog import load_tasks
from shared.parser import SuiteCLI

CONFIGS = load_tasks()["nas"].configs


def test_the_learning_rate_is_the_published_one():
    rates = [protocol.cosine(epoch, num_epochs=50, start=0.025, end=0.001) for epoch in range(50)]
    assert rates[0] == 0.025
    assert rates[49] == pytest.approx(1.023679e-3, rel=1e-6)
    assert protocol.cosine(300, num_epochs=600, start=0.025) == pytest.approx(0.0125)


def test_drop_path_rises_by_epochs():
    assert protocol.drop_path_probability(0, num_epochs=600, largest=0.2) == 0
    assert protocol.drop_path_probability(599, num_epochs=600, largest=0.2) == pytest.approx(0.19967, abs=1e-5)


@pytest.mark.parametrize(
    ("norm", "method", "channels", "expected"),
    [
        ("bgn", "darts", 16, 256),
        ("bgn", "random", 16, 256),
        ("bgn", "manas", 16, 64),
        ("bgn", "manas_ls", 36, 64),
        ("gn", "darts", 36, 32),
        ("gn", "darts", 4, 8),
        ("gbgn", "darts", 16, 32),
        ("bn", "darts", 16, None),
    ],
)
def test_groups(norm, method, channels, expected):
    assert protocol.num_groups(norm, method=method, channels=channels) == expected


@pytest.mark.parametrize(
    ("config", "search_epochs", "epochs", "batches"),
    [
        ("paper", 50, 650, (64, 96)),
        ("search_darts", 50, 50, (64, 64)),
        ("search_manas", 500, 500, (64, 64)),
        ("retrain", 0, 600, (96, 96)),
        ("retrain_manas", 0, 600, (64, 64)),
    ],
)
def test_configs_ask_for_the_paper_s_protocol(config, search_epochs, epochs, batches, tmp_path):
    flags = [f"--config={CONFIGS[config]}", f"--data.data_dir={tmp_path}", "--model.norm=bgn"]
    cli = SuiteCLI(NasModule, NasData, flags)
    module, data = cli.model, cli.datamodule
    assert (module.search_epochs, cli.trainer_settings()["max_epochs"]) == (search_epochs, epochs)
    assert (data.batch_size, data.retrain_batch_size) == batches
    assert module.num_groups == (64 if "manas" in config else 256)
    assert (module.channels, module.cells, module.settings.channels) == (36, 20, 16)
    assert module.settings.cells == (20 if config == "search_manas" else 8)
    assert yaml.safe_load(CONFIGS[config].read_text())["data"]["dataset"] == "cifar10"
