"""Both domains before and after adaptation in the plane, and which classes are mistaken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from shared.data.random import epoch_permutation
from shared.tracking import RunWandbLogger, log_picture

if TYPE_CHECKING:
    from uda.module import UdaModule

MOST_IMAGES = 800
"""Images of a domain in the plane; t-SNE takes seconds for so many."""
SOURCE_COLOUR, TARGET_COLOUR = "#0072b2", "#d55e00"


def confusion_matrix(
    labels: Int64[Tensor, " N"], predictions: Int64[Tensor, " N"], *, num_classes: int
) -> Int64[Tensor, "C C"]:
    """Count images by class (rows) and answer (columns).

    Args:
        labels: Class of each image.
        predictions: Answer for each.
        num_classes: C.
    """
    return torch.bincount(labels * num_classes + predictions, minlength=num_classes**2).view(num_classes, num_classes)


def plane(features: Float[Tensor, "N D"]) -> Float[np.ndarray, "N 2"]:
    """Return a place in the plane for each image by t-SNE, from the same start each time.

    Args:
        features: Of all images; their directions count, as in the clustering.

    Source: van der Maaten and Hinton 2008; scikit-learn's, cosine distances, initialised by PCA.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    tsne = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0, n_jobs=1)
    return tsne.fit_transform(F.normalize(features.float(), dim=1).cpu().numpy())


def save_before(source: Float[Tensor, "Ns D"], target: Float[Tensor, "Nt D"], *, folder: Path) -> None:
    """Keep the directions of all features before the first loop, for the picture at the run's end.

    Args:
        source: Features of the source.
        target: Features of the target.
        folder: The run's folder.
    """
    features = {"source": source, "target": target}
    torch.save({name: F.normalize(each, dim=1).half().cpu() for name, each in features.items()}, folder / "before.pt")


def draw_results(module: UdaModule, after: tuple[Tensor, Tensor], *, folder: Path) -> None:
    """Write confusion.{csv,png,svg} and domains.{png,svg} into the run's folder, and send them to W&B.

    Args:
        module: The tested module.
        after: Features of the source and of the target after the last loop.
        folder: The run's folder.
    """
    data = module.data
    assert module.predictions is not None
    labels = data.target.labels.cpu()
    counts = confusion_matrix(labels, module.predictions, num_classes=data.num_classes)
    rows = "".join(
        ",".join([f'"{name}"', *map(str, row)]) + "\n" for name, row in zip(data.target.classes, counts.tolist())
    )
    header = ",".join(["class", *(f'"{name}"' for name in data.target.classes)])
    (folder / "confusion.csv").write_text(f"{header}\n{rows}")
    figures = {"confusion": confusion_figure(counts, data.target.classes, title=f"{module.norm}, {module.transfer}")}
    before = folder / "before.pt"
    if before.is_file():
        saved = torch.load(before, map_location="cpu", weights_only=True)
        views = {"before the first loop": (saved["source"], saved["target"]), "after the last loop": after}
        figures["domains"] = domains_figure(
            views, labels=(data.source.labels, labels), names=(data.source_name, data.target_name)
        )
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            figure.savefig(folder / f"{name}.{kind}", dpi=130, metadata={"Date": None} if kind == "svg" else None)
        for logger in module.trainer.loggers:
            if isinstance(logger, RunWandbLogger):
                log_picture(logger, f"test/{name}", folder / f"{name}.png", step=module.trainer.global_step)


def confusion_figure(counts: Int64[Tensor, "C C"], classes: Sequence[str], *, title: str) -> Figure:
    """Draw the shares of each class's images by answer.

    Args:
        counts: Of `confusion_matrix`.
        classes: Names.
        title: What was tested.
    """
    size = max(4.5, 0.24 * len(classes) + 2.5)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    picture = axes.imshow(shares.numpy(), cmap="cividis", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share of the class's images")
    ticks = range(len(classes))
    axes.set_xticks(ticks, [name.replace("_", " ") for name in classes], rotation=90, fontsize=7)
    axes.set_yticks(ticks, [name.replace("_", " ") for name in classes], fontsize=7)
    axes.set(xlabel="answer", ylabel="class of the target image")
    axes.set_title(f"Target images by class and answer ({title})", fontsize=9)
    return figure


def domains_figure(
    views: dict[str, tuple[Tensor, Tensor]], *, labels: tuple[Tensor, Tensor], names: tuple[str, str]
) -> Figure:
    """Draw both domains in the plane, by domain and by class.

    Args:
        views: Title to the features of source and target.
        labels: Class of each source and target image, for the colours of the second row.
        names: Of the domains.
    """
    picks = [epoch_permutation(len(each), seed=0, epoch=0)[:MOST_IMAGES] for each in labels]
    classes = torch.cat([each[pick] for each, pick in zip(labels, picks)]).numpy()
    num_source = len(picks[0])
    figure = Figure(figsize=(5 * len(views), 9.4), layout="constrained")
    grid: Any = figure.subplots(2, len(views), squeeze=False)
    for column, (title, features) in enumerate(views.items()):
        places = plane(torch.cat([each.cpu().float()[pick] for each, pick in zip(features, picks)]))
        for part, colour, name in (
            (slice(num_source), SOURCE_COLOUR, names[0]),
            (slice(num_source, None), TARGET_COLOUR, names[1]),
        ):
            grid[0, column].scatter(*places[part].T, s=8, c=colour, label=name, alpha=0.6, linewidths=0)
            marker = "o" if name == names[0] else "x"
            grid[1, column].scatter(*places[part].T, s=10, c=classes[part], cmap="nipy_spectral", marker=marker,
                                    alpha=0.7, linewidths=0.8 if marker == "x" else 0)  # fmt: skip
        grid[0, column].set_title(title, fontsize=10)
        for axes in grid[:, column]:
            axes.set_xticks([])
            axes.set_yticks([])
    grid[0, 0].legend(loc="upper left", fontsize=8, markerscale=2)
    grid[0, 0].set_ylabel("by domain")
    grid[1, 0].set_ylabel(f"by class (o {names[0]}, x {names[1]})")
    figure.suptitle("t-SNE of pooled features; distances between far points mean little", fontsize=9)
    return figure
