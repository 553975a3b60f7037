"""What the record of an adaptation says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.callbacks import share_of_batches
from shared.runs import Items, Metric, Outcome, PaperCell, Scalar, accuracy_metric
from uda import protocol
from uda.data import UdaData
from uda.weights import IMAGENET

if TYPE_CHECKING:
    from uda.module import UdaModule

CURVES = (
    "val/accuracy", "can/shift", "can/drift", "can/label_change", "can/kept_share", "val/entropy",
    "val/neighbourhood_density", "train/loss", "train/cross_entropy", "train/cdd",
)  # fmt: skip

UNTRAINED = "random weights and no warm-up: the first loop clusters the features of an untrained network"


def uda_outcome(module: UdaModule, data: UdaData, history: list[dict[str, float]], *, is_tested: bool) -> Outcome:
    """Return the outcome of a run.

    Args:
        module: The adapted module, with its answers.
        data: Its data.
        history: Metrics by epoch.
        is_tested: Whether there are test results; not after divergence.
    """
    metrics: dict[str, Metric] = {}
    items: dict[str, Items] = {}
    loops = [entry for entry in history if entry["epoch"] > module.warmup_epochs]
    if is_tested:
        assert module.predictions is not None
        hits = module.predictions == data.target.labels.cpu()
        number = len(hits)
        metrics["test/accuracy"] = accuracy_metric(100 * float(hits.double().mean()), number)
        items["test/accuracy"] = Items(
            kind="images", key=data.describe()["checksum"], each=1, hits=hits.int().tolist()
        )
        validated = [(entry["val/accuracy"], int(entry["epoch"])) for entry in loops if "val/accuracy" in entry]
        best, epoch = max(validated, key=lambda entry: (entry[0], -entry[1]))
        metrics["oracle/best_loop_accuracy"] = accuracy_metric(best, number)
        metrics["oracle/best_loop"] = Metric(value=epoch - module.warmup_epochs, unit="")
        if module.warmup_epochs:
            before = history[module.warmup_epochs - 1]
            metrics["test/accuracy_before"] = accuracy_metric(before["val/accuracy"], number)
        metrics["can/loops"] = Metric(value=len(loops), unit="")
        last = loops[-1]
        for name in ("shift", "drift", "label_change", "kept_share", "kept_classes"):
            if f"can/{name}" in last:
                metrics[f"can/{name}"] = Metric(value=last[f"can/{name}"], unit="")
        for name in ("entropy", "neighbourhood_density"):
            metrics[f"val/{name}"] = Metric(value=last[f"val/{name}"], unit="")
        metrics["oracle/pseudo_label_accuracy"] = accuracy_metric(last["oracle/pseudo_label_accuracy"], number)
    differences = _differences(module, data)
    has_cell = module.transfer in protocol.GROUPS
    paper = [
        PaperCell(
            table=7, setting={"transfer": module.transfer}, metric="accuracy", record_metric="test/accuracy",
            comparable=not differences, why="; ".join(differences),
        )
    ] if has_cell else []  # fmt: skip
    return Outcome(
        headline=module.headline, metrics=metrics, selection="last loop; nothing is chosen by target labels",
        model=f"{module.method.replace('_', '-')}-{module.backbone}",
        protocol=_settings(module) | data.settings(), paper=paper,
        readings=_readings(module, num_loops=len(loops)), items=items,
        curves={name: [(int(e["epoch"]), e[name]) for e in history if name in e] for name in CURVES},
        warnings=_warnings(module, loops),
    )  # fmt: skip


def _warnings(module: UdaModule, loops: list[dict[str, float]]) -> list[str]:
    warnings = [UNTRAINED] if module.weights is None and not module.warmup_epochs else []
    empty = sum(entry.get("can/kept_classes") == 0 for entry in loops)
    if empty and module.method != "source_only":
        warnings.append(
            f"no class passed the filter in {empty} of {len(loops)} loops, which trained on the source only"
        )
    return warnings


def _settings(module: UdaModule) -> dict[str, Scalar]:
    """Return what two runs of one table share; the filter's threshold follows the pair."""
    origin = "torchvision's" if module.weights == IMAGENET else "from a file"
    return {
        "epochs": module.trainer.max_epochs,
        "warm-up epochs": module.warmup_epochs,
        "method": module.method,
        "weights": "random" if module.weights is None else f"{origin}, {module.conversion}",
        "stem": module.stem,
        "width": module.width,
        "frozen stages": module.frozen_stages,
        "recalibrated": module.recalibrate,
        "optimizer": module.optimizer,
        "learning rate": module.learning_rate,
        "decay": f"{module.decay}, {module.decay_rate:g} each {module.decay_step}",
        "weight decay": module.weight_decay,
        "CDD": f"{module.cdd_weight:g}, {'intra only, ' if module.intra_only else ''}over {module.normaliser} classes",
        "clustered": f"{module.cluster_views} views, "
        f"{'directions' if module.normalise_features else 'features as they are'}",
        "least images a class": module.min_images,
        "stop rule": module.stop_rule,
        "precision": str(module.trainer.precision),
    }


def _num_loops(module: UdaModule) -> int:
    """Return the loops of the run at most."""
    return (module.trainer.max_epochs or 0) - module.warmup_epochs


def _differences(module: UdaModule, data: UdaData) -> list[str]:
    """Return in words how the run differs from the paper's protocol."""
    trainer = module.trainer
    pairs: dict[str, tuple[object, object]] = {
        "method": (module.method, "can"),
        "network": (module.backbone, "resnet50"),
        "loops": (_num_loops(module), protocol.LOOPS),
        "optimiser": (module.optimizer, "adam"),
        "learning rate": (module.learning_rate, protocol.LEARNING_RATE),
        "decay": (module.decay, module.decay if module.decay in ("loop", "iteration") else "exponential"),
        "decay rate": (module.decay_rate, protocol.DECAY_RATE),
        "decay step": (module.decay_step, protocol.DECAY_STEP),
        "weight decay": (module.weight_decay, protocol.WEIGHT_DECAY),
        "CDD weight": (module.cdd_weight, protocol.CDD_WEIGHT),
        "parts of the discrepancy": ("intra only" if module.intra_only else "both", "both"),
        "least images a class": (module.min_images, protocol.MIN_IMAGES),
        "stop rule": (module.stop_rule, module.stop_rule if module.stop_rule != "never" else "shift"),
        "frozen stages": (module.frozen_stages, 1),
        "recalibrated": (module.recalibrate, False),
        "G": (module.num_groups, module.default_groups()),
        "threshold": (module.threshold, protocol.THRESHOLDS.get(module.transfer, 1.0)),
        "precision": (str(trainer.precision), "32-true"),
        "gradient clipping": (trainer.gradient_clip_val, None),
        "share of the training batches": (share_of_batches(trainer), 1.0),
        "batches a step": (trainer.accumulate_grad_batches, 1),
    }
    differences = data.differences_from_paper()
    if module.weights is None:
        differences.append("no ImageNet weights")
    elif module.norm != "bn":
        differences.append(f"ImageNet weights of BatchNorm ({module.conversion}), where the paper does not say whose")
    return differences + [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def _readings(module: UdaModule, *, num_loops: int) -> list[str]:
    end = f"; ended by it after {num_loops} of {_num_loops(module)} loops" if module.is_at_rest else ""
    readings = [
        f"learning rate decays by {module.decay} (0.1 and 25 have no unit in the paper; iterations would end training "
        "inside the first loop)",
        f"ends by the rule {module.stop_rule}; the paper: centres of source and target closer than 0.001{end}",
        "the last loop counts; the best loop is shown as oracle, since target labels would choose it",
        f"the discrepancy is divided by the {module.normaliser} classes",
    ]
    if module.norm == "bgn" and module.transfer in protocol.GROUPS:
        readings.append(
            f"G = {protocol.GROUPS[module.transfer]} is the paper's for this pair; there is no validation set of the "
            "target, so a G for each pair is a choice by target labels"
        )
    return readings
