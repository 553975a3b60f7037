"""Names, defaults and what costs an import of torch."""

import importlib
import subprocess
import sys

import pytest

import norm_layers
from norm_layers.registry import NORMS, NormSpec, default_num_groups, load_norm, resolve_norm


def test_the_names_are_the_papers_in_order():
    assert list(NORMS) == ["bn", "in", "ln", "gn", "pn", "gbgn", "bgn", "none"]
    assert [spec.label for spec in NORMS.values()] == ["BN", "IN", "LN", "GN", "PN", "GBGN", "BGN", "none"]
    assert [name for name, spec in NORMS.items() if spec.has_groups] == ["gn", "gbgn", "bgn"]
    assert [name for name, spec in NORMS.items() if spec.has_running_statistics] == ["bn", "gbgn", "bgn"]


@pytest.mark.parametrize("name", list(NORMS))
def test_every_entry_is_complete_and_its_target_exists(name):
    spec = resolve_norm(name)
    assert spec is NORMS[name]
    assert all((spec.target, spec.label, spec.title, spec.formula, spec.source))
    assert load_norm(name).__module__ == spec.target.partition(":")[0]


def test_names_cost_no_torch():
    code = (
        "import sys, norm_layers; from norm_layers.registry import NORMS, default_num_groups, resolve_norm; "
        "resolve_norm('bgn'); default_num_groups('bgn', batch_size=8); dir(norm_layers); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_can_be_imported():
    assert sorted(norm_layers.__all__) == sorted(norm_layers._MODULE_OF)
    for name in norm_layers.__all__:
        assert getattr(norm_layers, name) is not None
        assert name in dir(norm_layers)
    with pytest.raises(AttributeError, match="module 'norm_layers' has no attribute 'batchnorm'"):
        getattr(norm_layers, "batchnorm")  # noqa: B009 - a plain access would be a useless expression


def test_default_group_numbers_are_table_2():
    table = {128: 512, 64: 256, 32: 128, 16: 64, 8: 16, 4: 2, 2: 1}
    assert {batch: default_num_groups("bgn", batch_size=batch) for batch in table} == table


@pytest.mark.parametrize(
    ("batch_size", "num_groups"),
    [(1, 1), (3, 2), (6, 7), (12, 36), (24, 96), (30, 120), (96, 384), (129, 512), (4096, 512)],
)
def test_default_group_numbers_between_and_beyond(batch_size, num_groups):
    result = default_num_groups("bgn", batch_size=batch_size)
    assert result == num_groups
    assert isinstance(result, int)


def test_default_group_number_never_falls_with_the_batch():
    numbers = [default_num_groups("bgn", batch_size=batch) for batch in range(1, 200)]
    assert numbers == sorted(numbers)


def test_default_group_numbers_of_the_other_norms():
    assert default_num_groups("gn") == default_num_groups("gbgn", batch_size=2) == 32
    for name in ("bn", "in", "ln", "pn", "none", "torch.nn:GroupNorm"):
        assert default_num_groups(name, batch_size=8) is None


def test_default_group_number_errors():
    with pytest.raises(ValueError, match=r"batch_size must be given where norm='bgn' has no num_groups.*got None"):
        default_num_groups("bgn")
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        default_num_groups("bgn", batch_size=0)
    with pytest.raises(ValueError, match="norm must be one of"):
        default_num_groups("bng")


@pytest.mark.parametrize(
    ("typed", "meant"), [("bgm", "bgn"), ("BGN", "bgn"), ("gbn", "gbgn"), ("nnone", "none"), ("a.b.Good", "a.b:Good")]
)
def test_unknown_name_is_answered_in_one_line_with_a_guess(typed, meant):
    with pytest.raises(ValueError, match="norm must be one of") as error:
        resolve_norm(typed)
    text = str(error.value)
    assert "\n" not in text
    assert f"got {typed!r}. Did you mean {meant!r}?" in text
    assert "bn, in, ln, gn, pn, gbgn, bgn, none, or 'package.module:Class'" in text


def test_unknown_name_far_from_all_gets_no_guess():
    with pytest.raises(ValueError, match=r"got 'spectral'\.$"):
        resolve_norm("spectral")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:Norm", r"can be imported; got 'no_such_package:Norm' \(No module named 'no_such_package'\)"),
        ("torch.nn:NoSuchNorm", "must name something in torch.nn; got 'torch.nn:NoSuchNorm', which is not there"),
        ("collections:OrderedDict", "a class which is no nn.Module"),
        ("math:pi", "which is a float"),
        ("os:getcwd", "which takes no argument"),
        ("time:time", "whose signature cannot be read"),
        (":Norm", "must have the form 'package.module:Class'"),
        ("torch.nn:", "must have the form 'package.module:Class'"),
    ],
)
def test_outside_names_that_do_not_work(name, message):
    with pytest.raises(ValueError, match=message):
        resolve_norm(name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class Norm(", r"SyntaxError: '\(' was never closed"),
        ("raise RuntimeError('two' + chr(10) + 'lines')", "RuntimeError: two lines"),
    ],
)
def test_a_module_that_breaks_when_it_is_imported_is_told_in_one_line(tmp_path, monkeypatch, text, reason):
    name = f"broken{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=reason) as error:
        resolve_norm(f"{name}:Norm")
    assert "\n" not in str(error.value)


def test_outside_names_are_described_by_their_signature():
    assert resolve_norm("torch.nn:BatchNorm2d") == NormSpec(
        "torch.nn:BatchNorm2d",
        "BatchNorm2d",
        "BatchNorm2d",
        has_running_statistics=True,
        source="torch.nn:BatchNorm2d",
    )
    assert resolve_norm("torch.nn:GroupNorm").has_groups
    assert resolve_norm("torch.nn.modules:BatchNorm1d").label == "BatchNorm1d"


def test_a_broken_outside_module_s_own_error_is_the_cause(tmp_path, monkeypatch):
    (tmp_path / "broken_norm.py").write_text("raise RuntimeError('broken on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="RuntimeError: broken on purpose") as error:
        resolve_norm("broken_norm:Norm")
    assert isinstance(error.value.__cause__, RuntimeError)
    importlib.invalidate_caches()
