"""The parts of the page below the answer: cost, protocol, norm audit, commands, the paper's tables."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.report.aggregate import metric_words, norm_labels
from shared.report.audit import audit_table
from shared.report.cautions import readings_by_norm
from shared.report.experiments import Experiment
from shared.report.markup import data_table, element, escape, folded, paragraph, row_header
from shared.report.paper import PaperEntry, PaperTable
from shared.report.reading import LeftOut
from shared.report.records import Record
from shared.report.statistics import summarise
from shared.report.wording import MISSING, NOT_APPLICABLE, duration, humane, memory, plain, plural, pretty

MAX_COMMANDS = 100


def cost_tables(records: Sequence[Record]) -> str:
    """Build one table per device: speed, time and memory of each norm, by batch size."""
    by_device: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_device[record.device].append(record)
    return "\n".join(_cost_table(device, members) for device, members in sorted(by_device.items()))


def _cost_table(device: str, records: Sequence[Record]) -> str:
    labels = norm_labels({record.norm for record in records})
    sizes = sorted({record.batch_size for record in records}, key=lambda size: -(size or 0))
    members: dict[tuple[str, int | None], list[Record]] = defaultdict(list)
    for record in records:
        if record.done:
            members[record.norm, record.batch_size].append(record)
    rows = [
        [row_header(label), *(element("td", _cost_cell(members[norm, size])) for size in sizes)]
        for norm, label in labels.items()
    ]
    header = ["norm", *(f"batch size {'?' if size is None else size}" for size in sizes)]
    caption = f"On {device}: images per second in training, wall time of a run, peak memory (means over runs)"
    return data_table(caption, header, rows)


def _cost_cell(records: Sequence[Record]) -> str:
    if not records:
        return MISSING
    speed, time, peak = (
        _mean(record.number(name) for record in records)
        for name in ("images_per_second", "wall_time_seconds", "peak_memory_bytes")
    )
    small = [duration(time) if time is not None else "", memory(peak) if peak is not None else ""]
    first = f"{speed:,.0f} img/s" if speed is not None else MISSING
    return escape(first) + "".join(element("small", escape(text)) for text in small if text)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return summarise(known).mean if known else None


def experiment_details(experiment: Experiment) -> str:
    """Build what one needs to judge and to repeat an experiment."""
    versions = dict.fromkeys(_pairs(_mapping(record.raw.get("versions"))) for record in experiment.records)
    facts = [
        ("Data", _dataset(experiment.first.dataset)),
        ("Model", pretty(experiment.first.model)),
        ("Other axes", _pairs(experiment.axes) or "none"),
        ("Protocol", _pairs(experiment.protocol) or "not recorded"),
        *((f"{name}, by batch size", _pairs(values)) for name, values in sorted(experiment.following.items())),
        ("Which number is reported", experiment.first.selection),
        ("Readings of the paper in force", "; ".join(readings_by_norm(experiment.records))),
        ("Commit", _counts(experiment.commits)),
        ("Device", _counts(experiment.devices)),
        ("Versions", " / ".join(versions)),
        ("W&B", _counts(_count_modes(experiment.records))),
    ]
    listing = "".join(element("dt", escape(name)) + element("dd", escape(value)) for name, value in facts if value)
    return "\n".join(
        [element("dl", listing), audit_table(experiment.records), _other_metrics(experiment), _commands(experiment)]
    )


def _dataset(dataset: Mapping[str, Any]) -> str:
    """Write a record's data set: "CIFAR-10: 10,000 of the 50,000 training images, 10,000 test images, …"."""
    if not dataset:
        return "not recorded"
    train, test, note = dataset.get("train"), dataset.get("test"), humane(str(dataset.get("note") or ""))
    words = []
    if isinstance(train, int):
        partial = note.startswith(f"{train:,} of the ") and note.endswith(" training images")
        words.append(note if partial else f"{train:,} training images")
        note = "" if partial else note
    words += [f"{test:,} test images"] if isinstance(test, int) else []
    words += [f"{dataset['num_classes']} classes"] if dataset.get("num_classes") else []
    if resolution := dataset.get("resolution"):
        words.append(f"{resolution} × {resolution} pixels")
    words += [text for text in (note, str(dataset.get("checksum") or "")) if text]
    name = pretty(str(dataset.get("name", "?")))
    return f"{name}: {', '.join(words)}" if words else name


def _pairs(values: Mapping[Any, Any]) -> str:
    return "; ".join(f"{name}: {plain(value)}" for name, value in values.items())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({plural(number, 'run')})" for name, number in counts.items())


def _count_modes(records: Sequence[Record]) -> dict[str, int]:
    modes: dict[str, int] = defaultdict(int)
    for record in records:
        modes[str(_mapping(record.raw.get("wandb")).get("mode", "unknown"))] += 1
    return dict(sorted(modes.items()))


def _other_metrics(experiment: Experiment) -> str:
    """Every metric of every cell, for those who look for another number than the headline."""
    labels = norm_labels({record.norm for record in experiment.records})
    values: dict[tuple[int, int, int, str], list[float]] = defaultdict(list)
    units: dict[str, str] = {}
    for record in experiment.records:
        for name, metric in record.metrics.items() if record.done else ():
            key = (list(labels).index(record.norm), -(record.batch_size or 0), record.num_groups or 0, name)
            values[key].append(metric.value)
            units[name] = metric.unit
    names = sorted({name for *_, name in values})
    cells = sorted({key[:3] for key in values})
    rows = []
    for place, size, groups in cells:
        means = (_metric_text(values.get((place, size, groups, name)), units[name]) for name in names)
        texts = (-size or "?", groups or NOT_APPLICABLE, *means)
        rows.append([row_header(list(labels.values())[place]), *(element("td", escape(text)) for text in texts)])
    if not rows:
        return ""
    header = ["norm", "batch size", "G", *(metric_words(experiment, name) for name in names)]
    return folded("All metrics, mean over runs", data_table("", header, rows))


def _metric_text(values: Sequence[float] | None, unit: str) -> str:
    if not values:
        return MISSING
    mean = summarise(values).mean
    return f"{mean:.2f} %" if unit == "%" else f"{mean:.4g}{f' {unit}' if unit else ''}"


def _commands(experiment: Experiment) -> str:
    shown = experiment.records[:MAX_COMMANDS]
    items = [
        element("li", f"{escape(record.run)}<br>{element('code', escape(record.raw.get('command', 'not recorded')))}")
        for record in shown
    ]
    rest = len(experiment.records) - len(shown)
    note = paragraph(f"{plural(rest, 'more run')} in results.csv.", class_="note") if rest else ""
    listing = element("ul", "\n".join(items), class_="commands")
    return folded(f"The command of each run ({len(experiment.records)})", listing + note)


def left_out_section(left_out: Sequence[LeftOut]) -> str:
    """Build the list of what was found and not used."""
    items = [element("li", f"{element('code', escape(entry.source))}: {escape(entry.reason)}") for entry in left_out]
    intro = paragraph(f"{plural(len(left_out), 'record')} could not be used. None of them is in any number above.")
    return element("h2", "Left out", id="left-out") + intro + element("ul", "\n".join(items))


def paper_appendix(tables: Mapping[int, PaperTable]) -> str:
    """Build the paper's seven tables, as printed."""
    intro = paragraph(
        "As printed in “Batch Group Normalization” (Zhou et al. 2020), in %. A dash means that the training diverged. "
        "Mind two things: the paper mentions repeated runs for Table 7 only, and each number of Tables 1 and 2 is a "
        "multiple of 1/6250, so they were very probably scored on 6,250 of the 50,000 ImageNet validation images. "
        "Their standard error is then about 0.5 points."
    )
    content = intro + "\n".join(_paper_table(table) for table in tables.values())
    return element("h2", "Appendix: the paper's tables", id="paper") + folded("Show the seven tables", content)


def _paper_table(table: PaperTable) -> str:
    """Lay a table out with norms as rows; Table 1 has one norm, so batch sizes are its rows."""
    labels = norm_labels({entry.norm for entry in table.entries})

    def place(entry: PaperEntry) -> tuple[str, str]:
        if table.number == 1:
            return f"batch size {entry.setting['batch_size']}", f"G = {entry.setting['num_groups']}"
        keys = [key for key in entry.setting if key not in ("num_groups", "ways", "search", "attack")]
        column = ", ".join(f"{key.replace('_', ' ')} {entry.setting[key]}" for key in keys)
        return labels[entry.norm], column or entry.metric.replace("_", " ")

    printed = {place(entry): NOT_APPLICABLE if entry.printed == "-" else entry.printed for entry in table.entries}
    columns = list(dict.fromkeys(column for _, column in printed))
    rows = [
        [row_header(row), *(element("td", escape(printed.get((row, column), MISSING))) for column in columns)]
        for row in dict.fromkeys(row for row, _ in printed)
    ]
    return data_table(f"Table {table.number}. {table.title}", ["", *columns], rows)
