"""compile=true compiles every task's network, and its runs end as they do without, to the rounding of float64."""

import pytest
import torch
from task_runs import TaskRuns, read_record, read_weights
from torch._dynamo.testing import CompileCounterWithBackend

from shared.catalog import load_tasks
from shared.compiling import check_compiler
from shared.errors import UserError

FLAGS = {"nas": ["--model.order=second", "--model.nodes=1"]}
"""Beside the smoke config's: the second order goes more ways, one node a cell has fewer operations to compile."""


@pytest.fixture(autouse=True)
def _fresh_compiler(unchecked):
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("task", load_tasks())
def test_a_compiled_run_ends_like_a_plain_one(task, tmp_path):
    """Compiled down to torch's own operations; code for a CPU would be made of these, in minutes a task."""
    runs = TaskRuns(task, smoke=["--model.norm=bgn", "--trainer.precision=64-true", *FLAGS.get(task, [])])
    counter = CompileCounterWithBackend("aot_eager")

    class Counted(runs.module):
        def compile_parts(self):
            super().compile_parts(backend=counter)

    assert runs.run(tmp_path / "plain") == 0
    assert runs.run(tmp_path / "compiled", "--compile=true", module=Counted) == 0
    assert counter.frame_count > 0
    plain, compiled = (runs.only_run(tmp_path / name) for name in ("plain", "compiled"))
    torch.testing.assert_close(read_weights(compiled), read_weights(plain), rtol=1e-8, atol=1e-8)
    values = [{name: m["value"] for name, m in read_record(run)["metrics"].items()} for run in (compiled, plain)]
    assert values[0] == pytest.approx(values[1], nan_ok=True)


@pytest.mark.slow
def test_a_run_is_compiled_for_this_machine(tmp_path):
    runs = TaskRuns("adversarial", smoke=["--model.norm=bgn"])
    assert runs.run(tmp_path, "--compile=true") == 0
    assert read_record(runs.only_run(tmp_path))["status"] == "done"


def test_without_a_compiler_it_says_so():
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UserError, match=r"compile must be false where torch.compile does not work on cpu; got true"),
    ):
        check_compiler(torch.device("cpu"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.order=second", "--model.hvp=exact"], "compile must be false with hvp=exact"),
        (["--model.method=manas"], "compile must be false where there is no search by darts"),
        (["--model.search_epochs=0", "--model.genotype=DARTS_V2"], "compile must be false where there is no search"),
    ],
)
def test_what_cannot_be_compiled_is_refused(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        TaskRuns("nas").run(tmp_path, "--compile=true", *flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
