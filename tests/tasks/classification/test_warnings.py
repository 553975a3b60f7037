"""What the record of a run warns of."""

import pytest
from task_runs import TaskRuns, read_record

from classification.module import ClassificationModule

RUNS = TaskRuns("classification")


class Telling(ClassificationModule):
    """Answers by a constant, or by the labels themselves, and trains as it does."""

    knows = False

    def on_validation_batch_start(self, batch, *_):
        self.labels = batch.labels

    on_test_batch_start = on_validation_batch_start

    def forward(self, images):
        logits = super().forward(images) * 0
        if not self.training:
            logits[range(len(logits)), self.labels if self.knows else 0] = 1
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("knows", [False, True])
def test_a_network_that_only_guesses_is_warned_of(tmp_path, monkeypatch, capsys, knows):
    monkeypatch.setattr(Telling, "knows", knows)
    assert RUNS.run(tmp_path, "--trainer.max_epochs=1", module=Telling) == 0
    record = read_record(RUNS.only_run(tmp_path))
    assert record["metrics"]["test/top1"]["value"] == pytest.approx(100.0 if knows else 10.0)
    warning = "test accuracy is no better than guessing's"
    assert record["warnings"] == ([] if knows else [warning])
    assert (warning in capsys.readouterr().out) != knows
