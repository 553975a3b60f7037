"""A W&B that refuses, is out of order or dies: a clear answer, or a whole run without it."""

import pytest
from wandb_runs import end, record, start_run

from shared.errors import UserError
from shared.runs import create_run
from shared.tracking import start_wandb

pytestmark = pytest.mark.slow


def test_a_refused_key_is_one_line_with_code_2_and_leaves_nothing(server, tmp_path):
    environment = server.environment() | {"WANDB_API_KEY": "b" * 40}
    out, err = end(start_run("classification", tmp_path, **environment), code=2)
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: W&B refused the run: ")
    assert "401" in err
    assert "wandb=offline" in err
    assert out == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("own_wandb")
def test_an_entity_that_the_key_may_not_use_is_a_refusal(tmp_path):
    run = create_run(
        runs=tmp_path, run_dir=None, task="classification", norm="bn", config="smoke", batch_size=2, seed=0, command=""
    )
    axes = {"task": "classification", "norm": "bn", "num_groups": None, "batch_size": 2, "seed": 0}
    with pytest.raises(UserError, match=r"W&B refused the run: .*permission denied: entity nobody not found"):
        start_wandb(run, mode="online", project="p", entity="nobody", axes=axes, cell_hash="1a2b3c", config={})


def test_a_server_that_is_out_of_order_costs_no_run(fallen_back):
    assert len(fallen_back.err.splitlines()) == 1, fallen_back.err
    assert "W&B cannot be reached" in fallen_back.err
    path = fallen_back.path
    assert record(path)["status"] == "done"
    assert record(path)["wandb"] == {"mode": "offline", "id": path.name, "url": None}
    assert list(path.glob("wandb/offline-run-*/*.wandb"))
    assert "make sync" in fallen_back.out


def test_a_server_that_dies_in_mid_run_costs_no_record_and_no_long_wait(orphan):
    assert record(orphan.path)["status"] == "done"
    assert record(orphan.path)["wandb"]["mode"] == "online"
    assert len(record(orphan.path)["curves"]["val/top1"]) == 4
    assert len(orphan.served.history) > 0
    assert orphan.served.exit_code is None
    assert len(orphan.err.splitlines()) == 1, orphan.err
    assert "make sync" in orphan.err
