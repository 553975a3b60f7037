"""What the record of an adversarially trained network says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from adversarial import protocol
from adversarial.data import AdversarialData
from shared.callbacks import share_of_batches
from shared.runs import Items, Metric, Outcome, PaperCell, Profile, Scalar, accuracy_metric

if TYPE_CHECKING:
    from adversarial.module import AdversarialModule

CURVES = ("val/robust_top1", "val/clean_top1", "train/robust_top1", "train/loss")


def adversarial_outcome(
    module: AdversarialModule, data: AdversarialData, history: list[dict[str, float]], *, is_tested: bool
) -> Outcome:
    """Return the outcome of a run.

    Args:
        module: The trained module, with its results.
        data: Its data.
        history: Metrics by epoch.
        is_tested: Whether there are test results; not after divergence.
    """
    metrics: dict[str, Metric] = {}
    items: dict[str, Items] = {}
    profiles: dict[str, Profile] = {}
    warnings: list[str] = []
    facts = data.describe()
    if is_tested:
        other = "best" if module.reported == "last" else "last"
        tests = {name: right for name, right in module.results[module.reported].items() if not name.startswith("eps ")}
        metrics |= {f"test/{name}": _accuracy(right) for name, right in tests.items()}
        metrics |= {f"test/{name}_{other}": _accuracy(right) for name, right in module.results[other].items()}
        for name in ("robust_top1", "clean_top1"):
            key = f"{facts['checksum']}|{name}|{data.eval_batch_size}|{module.trainer.world_size}"
            items[f"test/{name}"] = Items(kind="images", key=key, each=1, hits=tests[name].int().tolist())
        validated = [(e["val/robust_top1"], -int(e["epoch"])) for e in history if "val/robust_top1" in e]
        best, epoch = max(validated)
        metrics["val/robust_top1"] = accuracy_metric(best, len(data.val))
        metrics["val/best_epoch"] = Metric(value=-epoch, unit="")
        metrics["train/robust_top1"] = Metric(value=history[-1]["train/robust_top1"])
        metrics["train/loss"] = Metric(value=history[-1]["train/loss"], unit="")
        profiles, warnings = _robustness_over_eps(module, data)
    differences = _differences(module, data)
    paper = [
        PaperCell(
            table=5, setting={"attack": attack}, metric=metric, record_metric=f"test/{metric}",
            comparable=not differences, why="; ".join(differences),
        )
        for metric, attack in (("robust_top1", "pgd4"), ("clean_top1", "none"))
    ]  # fmt: skip
    return Outcome(
        headline=module.headline, metrics=metrics, selection=_selection(module, data),
        model=f"wrn-{module.depth}-{module.width}", protocol=_settings(module) | data.settings(), paper=paper,
        readings=_readings(module, data), items=items, profiles=profiles, warnings=warnings,
        curves={name: [(int(e["epoch"]), e[name]) for e in history if name in e] for name in CURVES},
    )  # fmt: skip


def _accuracy(right: Tensor) -> Metric:
    return accuracy_metric(100 * float(right.double().mean()), len(right))


def _robustness_over_eps(module: AdversarialModule, data: AdversarialData) -> tuple[dict[str, Profile], list[str]]:
    """Return the curve over eps, and the signs of masked gradients; each comparison is on the same images."""
    results, settings = module.results[module.reported], module.evaluation.settings
    strong = module.evaluation.strong_name

    def percent(name: str, limit: int) -> float:
        return 100 * float(results[name][:limit].double().mean())

    curve = []
    if settings.curve_images:
        curve = [(0.0, percent("clean_top1", settings.curve_images))]
        curve += [(255 * pgd.eps, percent(f"eps {255 * pgd.eps:g}", settings.curve_images)) for pgd in settings.curve]
    limit = settings.strong_images
    accuracies = {f"PGD-{module.attack.steps}": percent("robust_top1", limit)}
    accuracies[f"PGD-{settings.strong.steps}"] = percent(strong, limit)
    if "square_top1" in results:
        accuracies["square"] = percent("square_top1", limit)
    chance = 100 / data.num_classes
    warnings = protocol.masking_warnings(accuracies, curve=curve, chance=chance)
    if percent("clean_top1", len(data.test)) <= chance + 1:
        warnings = ["clean accuracy is no better than guessing's"]
    elif "autoattack_top1" in results:
        limit = min(limit, settings.autoattack_images)
        pair = {
            f"PGD-{settings.strong.steps}": percent(strong, limit),
            "AutoAttack": percent("autoattack_top1", limit),
        }
        warnings += protocol.masking_warnings(pair, curve=[], chance=chance)
    if not curve:
        return {}, warnings
    title = f"accuracy under PGD-{settings.strong.steps} over eps, {settings.curve_images} test images"
    points = [(round(eps, 6), value) for eps, value in curve]
    return {"robust_over_eps": Profile(title=title, x="eps × 255", unit="%", points=points)}, warnings


def _selection(module: AdversarialModule, data: AdversarialData) -> str:
    if module.reported == "last":
        return "last epoch"
    return f"epoch with the best robust accuracy on {len(data.val):,} held-out training images"


def _settings(module: AdversarialModule) -> dict[str, Scalar]:
    attack, test = module.attack, module.evaluation.settings
    return {
        "epochs": module.trainer.max_epochs,
        "optimizer": module.optimizer,
        "learning rate": module.learning_rate,
        "schedule": module.schedule,
        "weight decay": module.weight_decay,
        "weight average": module.ema_decay,
        "attack": f"PGD-{attack.steps}, eps {attack.eps:g}, step {attack.step:.6g}, random start",
        "norms while crafting": module.attack_bn_mode,
        "stronger attack": f"PGD-{test.strong.steps}, {test.strong.restarts} starts, {test.strong_images} images",
        "Square": f"{test.square_queries} queries" if test.square_queries else "not run",
        "AutoAttack": f"{test.autoattack_images} images" if test.autoattack_images else "not run",
        "workers": module.trainer.world_size,
        "precision": str(module.trainer.precision),
    }


def _differences(module: AdversarialModule, data: AdversarialData) -> list[str]:
    """Return in words how the run differs from the paper's protocol."""
    trainer = module.trainer
    pairs: dict[str, tuple[object, object]] = {
        "network": (f"WRN-{module.depth}-{module.width}", f"WRN-{protocol.DEPTH}-{protocol.WIDTH}"),
        "epochs": (trainer.max_epochs, protocol.EPOCHS),
        "optimiser": (module.optimizer, "adam"),
        "learning rate": (module.learning_rate, protocol.LEARNING_RATE),
        "schedule": (module.schedule, "constant"),
        "weight decay": (module.weight_decay, 0.0),
        "weight average": (module.ema_decay, 0.0),
        "eps": (module.attack.eps, protocol.EPS),
        "step": (module.attack.step, protocol.STEP),
        "steps": (module.attack.steps, protocol.STEPS),
        "reported weights": (module.reported, "last"),
        "precision": (str(trainer.precision), "32-true"),
        "gradient clipping": (trainer.gradient_clip_val, None),
        "share of the training batches": (share_of_batches(trainer), 1.0),
    }
    pairs["G"] = (module.num_groups, module.default_groups())
    pairs["images a step"] = (
        data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        protocol.BATCH_SIZE,
    )
    differences = data.differences_from_paper()
    return differences + [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def _readings(module: AdversarialModule, data: AdversarialData) -> list[str]:
    readings = [
        f"batches of {data.batch_size}, random crop with padding {data.crop_padding} and flip, learning rate "
        f"{module.schedule}, weight decay {module.weight_decay:g}: the paper states none of them",
        f"norms while crafting: {module.attack_bn_mode} (not stated)",
        f"the test's PGD-{module.attack.steps} starts at random, from one start, as the training's",
        f"{len(data.val):,} training images are kept out to choose the best epoch; the test set chooses nothing",
    ]
    if module.norm == "gn":
        readings.append("where G does not divide C, GN's groups are flat over C·H·W: 'divide images into patches'")
    return readings
