"""What the record of a search, of retraining, or of both says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from nas import protocol
from nas.building import SearchSettings
from nas.data import NasData
from nas.genotype import genotype_hash
from nas.manas import BanditSettings, LeastSquaresSettings
from shared.callbacks import share_of_batches
from shared.runs import Items, Metric, Outcome, PaperCell, Scalar, accuracy_metric

if TYPE_CHECKING:
    from nas.module import NasModule

SHOWN_IN_SEARCH = ("val/top1", "search/entropy")
CURVES = (
    "train/loss", "train/top1", "val/loss", "val/top1", "val/derived_top1", "val/uniform_loss", "search/entropy",
    "search/none_share", "search/skips", "search/kept_genes",
)  # fmt: skip

Pair = tuple[object, object]
SEARCHES = {"manas": "MANAS", "manas_ls": "MANAS-LS", "random": "random"}
"""What stands before "search" in the name of a run's model; nothing for DARTS."""


def nas_outcome(module: NasModule, data: NasData, history: list[dict[str, float]], *, is_tested: bool) -> Outcome:
    """Return the outcome of a run.

    Args:
        module: The trained module.
        data: Its data.
        history: Metrics by epoch.
        is_tested: Whether there are test results; not after divergence.
    """
    history = [_fresh(entry, search_epochs=module.search_epochs) for entry in history]
    has_retraining = data.has_retraining
    headline = module.headline if has_retraining else "search/derived_top1"
    metrics: dict[str, Metric] = {}
    items: dict[str, Items] = {}
    if is_tested:
        assert isinstance(module.answers, Tensor)
        metrics[headline] = accuracy_metric(100 * float(module.answers.double().mean()), len(module.answers))
        key = f"{data.describe()['checksum']}|{headline}"
        items[headline] = Items(kind="images", key=key, each=1, hits=module.answers.int().tolist())
        metrics["train/loss"] = Metric(value=history[-1]["train/loss"], unit="")
        metrics["train/top1"] = Metric(value=history[-1]["train/top1"])
        searched = [entry for entry in history if "search/entropy" in entry]
        if searched:
            for name in ("search/entropy", "search/skips"):
                metrics[name] = Metric(value=searched[-1][name], unit="")
            validated = [entry for entry in searched if "val/derived_top1" in entry]
            for name in ("val/top1", "val/derived_top1"):
                if validated and (has_retraining or name == "val/top1"):
                    metrics[name] = accuracy_metric(validated[-1][name], len(data.validated_images))
    differences = _differences(module, data)
    table = protocol.TABLES[protocol.family(module.settings.method)]
    paper = [
        PaperCell(
            table=table, setting={"search": protocol.family(module.settings.method)}, metric="top1",
            record_metric="test/top1", comparable=not differences, why="; ".join(differences),
        )
    ]  # fmt: skip
    return Outcome(
        headline=headline, metrics=metrics, selection=_selection(data), model=_model(module, data),
        protocol=_settings(module, data) | data.settings(), paper=paper if has_retraining else [],
        readings=_readings(module, data), items=items, warnings=_warnings(module),
        curves={name: [(int(e["epoch"]), e[name]) for e in history if name in e] for name in CURVES},
    )  # fmt: skip


def _fresh(entry: dict[str, float], *, search_epochs: int) -> dict[str, float]:
    """Return an epoch's metrics without those of the search that Lightning shows again in retraining."""
    is_search = entry["epoch"] <= search_epochs
    return {name: value for name, value in entry.items() if is_search or not name.startswith("search/")}


def _selection(data: NasData) -> str:
    if data.has_retraining:
        return "last epoch"
    half = len(data.tested_images)
    return (
        f"genotype of the last epoch, under the search's weights, on the {half:,} training images that choose the "
        "architecture; not a test accuracy"
    )


def _model(module: NasModule, data: NasData) -> str:
    found = module.settings
    search = f"search c{found.channels} l{found.cells} n{found.nodes}"
    if found.method != "darts":
        search = f"{SEARCHES[found.method]} {search}"
    retrain = f"c{module.channels} l{module.cells}"
    if module.search_epochs == 0:
        return f"genotype {retrain}"
    return f"{search}, genotype {retrain}" if data.has_retraining else search


def _settings(module: NasModule, data: NasData) -> dict[str, Scalar]:
    settings = module.settings
    found: dict[str, Scalar] = {
        "epochs": f"{module.search_epochs} of search, {(module.trainer.max_epochs or 1) - module.search_epochs} of "
        "retraining",
        "weight decay": module.weight_decay,
        "gradient clipping": module.clip,
        "workers": module.trainer.world_size,
        "precision": str(module.trainer.precision),
    }
    if module.search_epochs > 0:
        found |= {
            "search learning rate": f"{settings.learning_rate:g} to {settings.learning_rate_end:g}, cosine",
            "search norms": f"without affine parameters, {settings.statistics} statistics in validation",
            "genotype": "the run's own",
        }
        if settings.method == "darts":
            found |= {
                "order": settings.order if settings.order == "first" else f"second, {settings.hvp}",
                "architecture learning rate": settings.architecture_learning_rate,
            }
        elif settings.method.startswith("manas"):
            found |= {"agents": settings.agents}
            if settings.method == "manas":
                found |= {
                    "reward": settings.reward,
                    "temperature": f"{settings.temperature_start:g} to {settings.temperature_end:g}",
                }
            else:
                found |= {"samples of a fit": settings.samples}
            found |= _changed(settings)
        else:
            found |= {"candidates": settings.random_candidates}
    elif module.given_genotype is not None and module.genotype is not None:
        found["genotype"] = f"{module.genotype.name} ({genotype_hash(module.genotype)})"
    else:
        found["genotype"] = "drawn at random from the seed"
    if data.has_retraining:
        found |= {
            "retraining": f"batches of {data.retrain_batch_size}, learning rate {module.learning_rate:g} to 0, cosine",
            "drop path": module.drop_path,
            "auxiliary head": module.auxiliary_weight if module.has_auxiliary else "none",
        }
    return found


def _changed(settings: SearchSettings) -> dict[str, Scalar]:
    """Return what else of the agents' settings is not as it is by default."""
    defaults: type[BanditSettings | LeastSquaresSettings] = LeastSquaresSettings
    names = ["baseline_decay", "refresh"]
    if settings.method == "manas":
        defaults, names = BanditSettings, ["baseline_decay", "exploration", "reward_baseline"]
    values = {name: getattr(settings, name) for name in names}
    return {name.replace("_", " "): value for name, value in values.items() if value != getattr(defaults, name)}


def _differences(module: NasModule, data: NasData) -> list[str]:
    """Return in words how the run differs from the paper's protocol."""
    family = protocol.family(module.settings.method)
    trainer = module.trainer
    retrain_epochs = (trainer.max_epochs or 1) - module.search_epochs
    differences = data.differences_from_paper()
    differences += _unequal({
        "retraining epochs": (retrain_epochs, protocol.RETRAIN_EPOCHS),
        "retraining batches": (data.retrain_batch_size * trainer.world_size, protocol.RETRAIN_BATCH_SIZE[family]),
        "channels": (module.channels, protocol.CHANNELS),
        "cells": (module.cells, protocol.CELLS),
        "learning rate": (module.learning_rate, protocol.LEARNING_RATE),
        "weight decay": (module.weight_decay, protocol.WEIGHT_DECAY),
        "drop path": (module.drop_path, protocol.DROP_PATH),
        "auxiliary head's weight": (module.auxiliary_weight, protocol.AUXILIARY_WEIGHT),
        **_of_both(module),
    })  # fmt: skip
    if module.search_epochs > 0:
        differences += _unequal(_of_the_search(module, data))
    return differences + _differences_of_the_genotype(module, family)


def search_differences(module: NasModule, data: NasData) -> str:
    """Return in words how the run's search differs from the paper's, for those that retrain what it finds."""
    decay: dict[str, Pair] = {"weight decay": (module.weight_decay, protocol.WEIGHT_DECAY)}
    pairs = decay | _of_both(module) | _of_the_search(module, data)
    return "; ".join(data.differences_from_paper(retraining=False) + _unequal(pairs))


def _unequal(pairs: dict[str, Pair]) -> list[str]:
    return [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def _of_both(module: NasModule) -> dict[str, Pair]:
    """Return settings of search and retraining beside the paper's."""
    return {
        "clipping": (module.clip, protocol.CLIP),
        "G": (module.num_groups, module.default_groups()),
        "precision": (str(module.trainer.precision), "32-true"),
        "share of the training batches": (share_of_batches(module.trainer), 1.0),
    }


def _of_the_search(module: NasModule, data: NasData) -> dict[str, Pair]:
    """Return settings of the search beside the paper's; of MANAS' it says only what is as in DARTS."""
    settings = module.settings
    pairs: dict[str, Pair] = {
        "search epochs": (module.search_epochs, protocol.SEARCH_EPOCHS),
        "search batches": (data.batch_size * module.trainer.world_size, protocol.SEARCH_BATCH_SIZE),
        "search channels": (settings.channels, protocol.SEARCH_CHANNELS),
        "search cells": (settings.cells, protocol.SEARCH_CELLS),
        "nodes": (settings.nodes, protocol.NUM_NODES),
        "search learning rate": (settings.learning_rate, protocol.LEARNING_RATE),
    }
    if protocol.family(settings.method) == "darts":
        return pairs | {
            "alphas' learning rate": (settings.architecture_learning_rate, protocol.ARCHITECTURE_LEARNING_RATE)
        }
    if settings.agents == "per_cell":
        pairs["search epochs"] = (module.search_epochs, protocol.PER_CELL_SEARCH_EPOCHS)
        pairs["search cells"] = (settings.cells, protocol.CELLS)
    return pairs


def _differences_of_the_genotype(module: NasModule, family: str) -> list[str]:
    """Return how the architecture's origin differs: searched with the run's norm (DARTS), or with BN (MANAS)."""
    found, given = module.settings, module.provenance
    if found.method == "random" or (given is not None and given.method == "random"):
        return ["a random architecture, not a searched one"]
    if module.search_epochs > 0:
        return _unequal_norm(module.norm, module, family)
    differences = []
    if module.genotype is not None and module.genotype.num_nodes != protocol.NUM_NODES:
        differences.append(f"nodes {module.genotype.num_nodes}, not {protocol.NUM_NODES}")
    if given is None:
        name = "" if module.genotype is None else module.genotype.name
        return [*differences, f"the published {name}, not an architecture of the run's own search"]
    if protocol.family(given.method) != family:
        differences.append(f"architecture searched by {given.method}, not {family}")
    differences += _unequal_norm(given.norm, module, family)
    return differences + ([f"its search: {given.differences}"] if given.differences else [])


def _unequal_norm(search_norm: str, module: NasModule, family: str) -> list[str]:
    wanted = module.norm if family == "darts" else "bn"
    return [] if search_norm == wanted else [f"architecture searched with {search_norm}, not {wanted}"]


def _readings(module: NasModule, data: NasData) -> list[str]:
    settings = module.settings
    readings = []
    if module.genotype is not None:
        readings.append(f"architecture: {module.genotype.name}, {genotype_hash(module.genotype)}")
    if module.search_epochs > 0:
        readings.append(f"the halves of the training images are class-balanced: {len(data.weight_images):,} each")
    if module.search_epochs > 0 and settings.method == "darts":
        readings.append(f"{settings.order} order (not stated)")
    if module.search_epochs > 0 and settings.method.startswith("manas"):
        readings.append("no code of MANAS is public; README.md of the task says how it was read")
    if data.has_retraining and module.auxiliary_weight > 0 and not module.has_auxiliary:
        readings.append("no auxiliary head: the map after the second reduction cell is below 8x8 pixels")
    if module.norm == "gn":
        readings.append("where G does not divide C, GN's groups are flat over C·H·W")
    return readings


def _warnings(module: NasModule) -> list[str]:
    warnings = [] if module.untaught is None else [module.untaught]
    if module.degenerate is not None:
        gone_on = ", gone on with all the same" if module.allow_degenerate else ""
        warnings.append(f"degenerate{gone_on}: {module.degenerate}")
    return warnings
