"""What a run cost: stops within an epoch must not change the images a second."""

import time

import pytest
from task_runs import TaskRuns, read_checkpoint, read_record

RUNS = TaskRuns("classification")
SECONDS = 0.02


class Crash(Exception):
    pass


@pytest.mark.slow
def test_a_run_that_stops_within_epochs_is_no_faster(tmp_path):
    class SlowModule(RUNS.module):
        crash_at = 15

        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == self.crash_at:
                raise Crash
            time.sleep(SECONDS)
            return super().training_step(batch, batch_idx)

    class FurtherModule(SlowModule):
        crash_at = 35

    class WholeModule(SlowModule):
        crash_at = -1

    with pytest.raises(Crash):
        RUNS.run(tmp_path, "--checkpoint_minutes=0", module=SlowModule)
    folder = RUNS.only_run(tmp_path)
    (counts,) = [state for name, state in read_checkpoint(folder)["callbacks"].items() if "Cost" in name]
    assert counts["images"] == 12 * 8
    assert counts["seconds"] >= 12 * SECONDS
    with pytest.raises(Crash):
        RUNS.resume(folder, FurtherModule)
    assert RUNS.resume(folder, WholeModule) == 0
    assert 0 < read_record(folder)["images_per_second"] <= 8 / SECONDS
