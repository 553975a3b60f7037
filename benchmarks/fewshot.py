"""Few-shot: 600 test episodes on cached features, and beside easyfsl's evaluation of the same episodes.

    python -m benchmarks.fewshot

miniImageNet's test split: 20 classes of 600 images, 512 features, 5 ways, 15 queries a class. easyfsl is no dependency
of the suite: `pip install easyfsl==1.5.0` brings its rows.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.beside import compare, now, profiled
from benchmarks.rows import Row, main, timed_row, version
from fewshot.episodes import Episodes, draw_episodes
from fewshot.imprinting import episode_hits, unit

EASYFSL = "easyfsl 1.5.0, SimpleShot"
QUERIES = 15


def our_evaluation(features: Tensor, episodes: Episodes) -> Callable[[], Tensor]:
    """Return what a run does at its test: embeddings of length 1, and the hits of all episodes."""

    def evaluate() -> Tensor:
        return episode_hits(unit(features), episodes.indices, shots=episodes.shots)

    return evaluate


class EpisodeSampler(torch.utils.data.Sampler[list[int]]):
    """Gives easyfsl's loader our episodes in place of its own draws."""

    def __init__(self, episodes: Episodes) -> None:
        self.episodes = episodes.indices.flatten(1).tolist()

    def __len__(self) -> int:
        return len(self.episodes)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.episodes)


def easyfsl_evaluation(features: Tensor, labels: Tensor, episodes: Episodes) -> Callable[[], float]:
    """Return easyfsl's evaluation of the same episodes on the same features: prototypes and cosines."""
    from easyfsl.datasets import FeaturesDataset
    from easyfsl.methods import SimpleShot
    from easyfsl.samplers import TaskSampler
    from easyfsl.utils import evaluate

    dataset = FeaturesDataset(labels.tolist(), features, [str(label) for label in labels.unique().tolist()])
    task = TaskSampler.__new__(TaskSampler)  # its __init__ calls torch's Sampler as torch 2.15 no longer is called
    task.n_way, task.n_shot, task.n_query, task.n_tasks = episodes.ways, episodes.shots, QUERIES, len(episodes)
    sampler: Any = EpisodeSampler(episodes)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=task.episodic_collate_fn)
    method = SimpleShot(feature_normalization=2.0)
    return lambda: evaluate(method, loader, device="cpu", use_tqdm=False)


def measure(*, pairs: int = 9, tiny: bool = False) -> list[Row]:
    """Measure 1 and 5 shots."""
    num_episodes, classes, images, width = (20, 6, 30, 16) if tiny else (600, 20, 600, 512)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(images)
    centres = torch.randn(classes, width, generator=generator)
    features = (centres[labels] + 12 * torch.randn(classes * images, width, generator=generator)).relu()
    rows = []
    for shots in (1, 5):
        settings: dict[str, Any] = {"ways": 5, "shots": shots, "queries": QUERIES, "num_episodes": num_episodes}
        episodes = draw_episodes(labels, **settings, seed=0, sampler="builtin")
        ours = our_evaluation(features, episodes)
        what = f"{num_episodes} episodes of 5 ways, {shots} shot, {QUERIES} queries, on cached features of {width}"
        rows.append(absolute_row(ours, what, pairs=pairs))
        if importlib.util.find_spec("easyfsl") is None:
            easy: dict[str, Any] = {"task": "fewshot", "what": what, "reference": EASYFSL, "at_least": 1.0}
            note = "easyfsl is not installed here: pip install easyfsl==1.5.0"
            rows.append(Row(**easy, ours=rows[-1].ours, unit="s", note=note))
            continue
        theirs = easyfsl_evaluation(features, labels, episodes)
        accuracies = float(ours().sum()) / len(episodes) / episodes.num_queries, theirs()
        turns = compare(ours, theirs, pairs=min(pairs, 3), wanted=1)
        reference = f"{version('easyfsl')}, evaluate() with SimpleShot on a FeaturesDataset, the same episodes"
        note = "accuracies {:.3%} and {:.3%}".format(*accuracies)
        rows.append(timed_row(turns, task="fewshot", what=what, reference=reference, at_least=1, note=note))
    return rows


def absolute_row(evaluate: Callable[[], Any], what: str, *, pairs: int) -> Row:
    """Return the row of our time alone."""
    times = []
    for _ in range(pairs):
        start = now()
        evaluate()
        times.append(now() - start)
    seconds = statistics.median(times)
    why = profiled(evaluate) if seconds >= 1 else ""
    return Row(task="fewshot", what=what, ours=round(seconds, 4), unit="s", at_most=1, why=why)


if __name__ == "__main__":
    raise SystemExit(main(["benchmarks.fewshot"], name="fewshot"))
