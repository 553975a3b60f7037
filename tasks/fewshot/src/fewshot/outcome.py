"""What the record of a few-shot run says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot import protocol
from fewshot.data import FewshotData
from fewshot.resnet12 import WIDTHS
from shared.callbacks import share_of_batches
from shared.runs import Items, Metric, Outcome, PaperCell, Scalar

if TYPE_CHECKING:
    from fewshot.module import FewshotModule

CURVES = ("val/accuracy", "train/accuracy", "train/loss", "train/scale")


def fewshot_outcome(
    module: FewshotModule, data: FewshotData, history: list[dict[str, float]], *, is_tested: bool
) -> Outcome:
    """Return the outcome of a run.

    Args:
        module: The trained module, with its hits.
        data: Its data.
        history: Metrics by epoch.
        is_tested: Whether there are test results; not after divergence.
    """
    metrics, items = scores(module, data) if is_tested else ({}, {})
    validated = [(epoch["val/accuracy"], int(epoch["epoch"])) for epoch in history if "val/accuracy" in epoch]
    if is_tested:
        best, number = max(validated, key=lambda entry: (entry[0], -entry[1]))
        metrics["val/accuracy"] = Metric(value=best, n=data.num_val_episodes)
        metrics["val/best_epoch"] = Metric(value=number, unit="")
        for name, unit in (("train/accuracy", "%"), ("train/loss", ""), ("train/scale", "")):
            metrics[name] = Metric(value=history[-1][name], unit=unit)
    curves = {name: [(int(e["epoch"]), e[name]) for e in history if name in e] for name in CURVES}
    differences = differences_from_the_paper(module, data)
    paper = [
        PaperCell(
            table=6, setting={"ways": data.ways, "shots": shots}, metric="accuracy",
            record_metric=f"test/accuracy_{shots}shot", comparable=not differences, why="; ".join(differences),
        )
        for shots in data.shots
        if shots in protocol.SHOTS and data.ways == protocol.WAYS and data.queries == protocol.QUERIES
    ]  # fmt: skip
    return Outcome(
        headline=f"test/accuracy_{data.shots[0]}shot", metrics=metrics, selection=_selection(data), model="resnet12",
        protocol=_settings(module) | data.settings(), paper=paper, readings=_readings(module, data), curves=curves,
        items=items,
    )  # fmt: skip


def scores(module: FewshotModule, data: FewshotData) -> tuple[dict[str, Metric], dict[str, Items]]:
    """Return the accuracies of the best, the last and the untrained weights, and the episodes behind them."""
    metrics, items = {}, {}
    for weights, suffix in (("best", ""), ("last", "_last"), ("untrained", "_untrained")):
        for shots, episodes in data.test_episodes.items():
            hits, queries = module.hits[weights], episodes.num_queries
            name = f"test/accuracy_{shots}shot{suffix}"
            metrics[name] = protocol.episode_metric(hits[f"{shots}shot"], queries)
            items[name] = Items(
                kind="episodes", key=data.episodes_key(shots), each=queries, hits=hits[f"{shots}shot"].tolist()
            )
            if f"{shots}shot_base" in hits and weights == "best":
                novel, base = hits[f"{shots}shot_novel"], hits[f"{shots}shot_base"]
                both, num_both = protocol.pooled_hits((novel, queries), (base, queries))
                metrics[f"test/joint_{shots}shot"] = protocol.episode_metric(both, num_both)
                metrics[f"test/joint_{shots}shot_novel"] = protocol.episode_metric(novel, queries)
                metrics[f"test/joint_{shots}shot_base"] = protocol.episode_metric(base, queries)
    return metrics, items


def _selection(data: FewshotData) -> str:
    episodes = data.val_episodes
    return (
        f"epoch with the best accuracy on {len(episodes):,} {episodes.ways}-way 1-shot episodes of the validation "
        "classes"
    )


def _settings(module: FewshotModule) -> dict[str, Scalar]:
    return {
        "epochs": module.trainer.max_epochs,
        "learning rates": ", ".join(map(str, module.learning_rates)),
        "milestones": ", ".join(map(str, module.milestones)),
        "weight decay": module.weight_decay,
        "momentum": module.momentum,
        "widths": "-".join(map(str, module.widths)),
        "activation": module.activation,
        "initial scale": module.scale,
        "workers": module.trainer.world_size,
        "precision": str(module.trainer.precision),
    }


def differences_from_the_paper(module: FewshotModule, data: FewshotData) -> list[str]:
    """Return in words how the run differs from the paper's protocol."""
    trainer = module.trainer
    pairs: dict[str, tuple[object, object]] = {
        "epochs": (trainer.max_epochs, protocol.EPOCHS),
        "milestones": (module.milestones, protocol.MILESTONES),
        "learning rates": (module.learning_rates, protocol.LEARNING_RATES),
        "weight decay": (module.weight_decay, protocol.WEIGHT_DECAY),
        "momentum": (module.momentum, protocol.MOMENTUM),
        "precision": (str(trainer.precision), "32-true"),
        "gradient clipping": (trainer.gradient_clip_val, None),
        "images a step": (
            data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
            protocol.BATCH_SIZE,
        ),
        "share of the training batches": (share_of_batches(trainer), 1.0),
    }
    differences = data.differences_from_paper()
    differences += [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
    if module.num_groups != module.default_groups():
        differences.append(f"G {module.num_groups}, not {module.default_groups()}")
    if module.widths not in WIDTHS.values():
        widths = "-".join(map(str, module.widths))
        differences.insert(0, f"widths {widths}, not {'-'.join(map(str, WIDTHS['tadam']))}")
    if data.iterations_per_epoch not in (None, protocol.CODE_ITERATIONS):
        differences.append(f"{data.iterations_per_epoch} iterations an epoch")
    return differences


def _readings(module: FewshotModule, data: FewshotData) -> list[str]:
    length = f"{data.iterations_per_epoch} iterations" if data.iterations_per_epoch else "a pass over the base images"
    workers = module.trainer.world_size
    readings = [
        f"{workers} {'worker' if workers == 1 else 'workers'}; the paper does not say how many",
        f"an epoch is {length}; the paper does not say, and the code that it follows means 1,000 iterations",
        "ResNet-12 pools after all four blocks; activation, widths and queries a class are not stated",
        "± is 1.96 standard errors over episodes (n − 1); the paper announces intervals and prints none",
        "untrained: initial weights, running statistics estimated from base images",
    ]
    if module.groups_in_force() is not None:
        readings.append(f"G = {module.groups_in_force()}: the paper names none for few-shot learning")
    return readings
