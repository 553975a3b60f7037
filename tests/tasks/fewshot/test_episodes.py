"""Episodes: fixed, hashed, disjoint, and the same whichever sampler draws them."""

import subprocess
import sys

import pytest
import torch

from fewshot import episodes as module
from fewshot.episodes import TEST_SEED, check_request, draw_episodes, draw_queries
from shared.errors import UserError

LABELS = torch.arange(1200) // 60
REQUEST = {"ways": 5, "shots": 1, "queries": 15, "num_episodes": 600, "seed": TEST_SEED}


@pytest.fixture(scope="module")
def builtin():
    return draw_episodes(LABELS, **REQUEST, sampler="builtin")


def test_learn2learn_and_the_builtin_sampler_draw_the_same_episodes(builtin):
    pytest.importorskip("learn2learn", reason="learn2learn could not be built here; the builtin sampler is in use")
    drawn = draw_episodes(LABELS, **REQUEST, sampler="learn2learn")
    assert drawn.sampler == "learn2learn"
    assert torch.equal(drawn.indices, builtin.indices)
    mixed = LABELS[torch.randperm(1200, generator=torch.Generator().manual_seed(0))]
    request = REQUEST | {"shots": 5, "ways": 3, "num_episodes": 50, "seed": 7}
    pair = [draw_episodes(mixed, **request, sampler=name).indices for name in ("learn2learn", "builtin")]
    assert torch.equal(*pair)


def test_episodes_are_the_same_on_every_machine(builtin):
    """The numbers were drawn with Python 3.11; Python's generator is the same in every version."""
    assert builtin.indices[0, 0].tolist()[:8] == [745, 778, 770, 773, 739, 750, 742, 757]
    assert builtin.indices[0, :, 0].tolist() == [745, 838, 87, 520, 951]
    assert builtin.key("images") == "sha256:db039bed230fe515e3a17f401022d1572e5b29fe7ba484ef5fffdf8371ec0443"
    assert builtin.key("other images") != builtin.key("images")


IN_A_PROCESS_OF_ITS_OWN = """
import random, numpy, torch
from fewshot.episodes import draw_episodes

before = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1].copy()
for sampler in ("builtin", "auto"):
    draw_episodes(torch.arange(100) // 20, ways=2, shots=1, queries=3, num_episodes=3, seed=0, sampler=sampler)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert numpy.array_equal(numpy.random.get_state()[1], before[2])
"""


@pytest.mark.slow
def test_global_generators_are_not_touched():
    """In a process of its own: W&B's threads draw from Python's generator."""
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


def test_labelled_images_and_queries_are_disjoint_and_of_their_class(builtin):
    for episode in builtin.indices:
        assert len(set(episode.flatten().tolist())) == 80
        classes = LABELS[episode]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == 5
    assert (len(builtin), builtin.ways, builtin.shots, builtin.num_queries) == (600, 5, 1, 75)


def test_classes_and_images_are_equally_likely(builtin):
    """Chi-squared over 20 classes and 1,200 images: mean = degrees of freedom, 5 standard deviations allowed."""
    for values, cells in ((LABELS[builtin.indices[:, :, 0]], 20), (builtin.indices, 1200)):
        counts = torch.bincount(values.flatten(), minlength=cells).double()
        expected = counts.sum() / cells
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert statistic < cells - 1 + 5 * (2 * (cells - 1)) ** 0.5


def test_drawn_episodes_are_kept(tmp_path, builtin):
    first = draw_episodes(LABELS, **REQUEST, sampler="builtin", cache_dir=tmp_path)
    (file,) = tmp_path.rglob("*.npy")
    stamp = file.stat().st_mtime_ns
    again = draw_episodes(LABELS, **REQUEST, sampler="builtin", cache_dir=tmp_path)
    assert file.stat().st_mtime_ns == stamp
    assert torch.equal(first.indices, builtin.indices)
    assert torch.equal(again.indices, builtin.indices)
    draw_episodes(LABELS, **REQUEST | {"shots": 2}, sampler="builtin", cache_dir=tmp_path)
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    file.write_bytes(b"damaged")
    assert torch.equal(
        draw_episodes(LABELS, **REQUEST, sampler="builtin", cache_dir=tmp_path).indices, builtin.indices
    )


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path, builtin):
    (tmp_path / "episodes").write_text("a file where the folder should be")
    drawn = draw_episodes(LABELS, **REQUEST, sampler="builtin", cache_dir=tmp_path)
    assert torch.equal(drawn.indices, builtin.indices)


def test_a_learn2learn_that_does_not_work_is_replaced(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.data", None)  # its import raises ImportError
    monkeypatch.setattr(module, "_has_learn2learn", lambda: True)
    assert draw_episodes(LABELS, **REQUEST | {"num_episodes": 2}).sampler == "builtin"
    with pytest.raises(UserError, match="where learn2learn does not work; got"):
        draw_episodes(LABELS, **REQUEST | {"num_episodes": 2}, sampler="learn2learn")


def test_without_learn2learn_the_builtin_sampler_takes_over(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    assert draw_episodes(LABELS, **REQUEST | {"num_episodes": 2}).sampler == "builtin"
    with pytest.raises(UserError, match="builtin or auto where learn2learn is not installed"):
        draw_episodes(LABELS, **REQUEST, sampler="learn2learn")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"shots": 0}, "shots must be at least 1; got 0."),
        ({"ways": 1}, "ways must be at least 2; got 1."),
        ({"queries": 0}, "queries must be at least 1; got 0."),
        ({"ways": 21}, "ways must be at most the 20 novel classes; got 21."),
        ({"shots": 46}, "shots + queries must be at most the 60 images of a novel class; got 46 + 15 = 61."),
    ],
)
def test_impossible_requests_are_refused(request_, message):
    request_ = {"ways": 5, "shots": 1, "queries": 15} | request_
    with pytest.raises(UserError) as error:
        check_request(LABELS, **request_, split="novel")
    assert str(error.value).startswith(message)


def test_the_smallest_class_counts():
    labels = torch.tensor([0] * 30 + [1] * 10 + [2] * 30)
    check_request(labels, ways=2, shots=5, queries=5, split="novel")
    with pytest.raises(UserError, match="at most the 10 images"):
        check_request(labels, ways=2, shots=6, queries=5, split="novel")


def test_base_queries_do_not_repeat_within_an_episode():
    queries = draw_queries(90, queries=75, num_episodes=40, seed=2)
    assert queries.shape == (40, 75)
    assert all(len(set(row.tolist())) == 75 for row in queries)
    assert torch.equal(queries, draw_queries(90, queries=75, num_episodes=40, seed=2))
