"""The model card of an adapter, without names of cases or folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.filesize import decimal

from medsam_adapt.core.text import counted
from medsam_adapt.hub.origin import Repository
from medsam_adapt.hub.places import ADAPTER_WEIGHTS
from medsam_adapt.report.facts import Facts, facts_of
from medsam_adapt.runs.record import RunRecord
from medsam_adapt.scoring.metrics import METRICS
from medsam_adapt.scoring.protocols import SEES_THE_ANSWER
from medsam_adapt.weights.registry import WEIGHTS

# The same weights on the Hugging Face Hub, which shows an adapter under them; their files there have another form.
_ON_THE_HUB = {
    "sam_vit_b": "facebook/sam-vit-base",
    "sam_vit_l": "facebook/sam-vit-large",
    "sam_vit_h": "facebook/sam-vit-huge",
    "medsam_vit_b": "wanglab/medsam-vit-base",
    "sam2_hiera_tiny": "facebook/sam2.1-hiera-tiny",
    "sam2_hiera_base_plus": "facebook/sam2.1-hiera-base-plus",
    "medsam2": "wanglab/MedSAM2",
}
_SHOWN = ("dsc", "iou", "hd95", "nsd")
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")


def model_card(run: Path, repository: Repository, metrics: Mapping[str, Any] | None, place: str) -> str:
    """The card as Markdown, with the front matter that hubs read.

    Args:
        run: the run's folder.
        repository: what is published; its record is the run's own.
        metrics: content of the run's ``metrics.json``, None where it was not scored.
        place: where it is published, for the commands.
    """
    record, origin = repository.record, repository.origin
    facts = facts_of(run, record)
    parts = [
        _front_matter(repository),
        f"# {', '.join(map(_plain, record.class_names))}: an adapter for SAM, by {_plain(facts.method)}",
        "Made with medsam-adapt from labelled scans. **Research only; not for "
        "clinical use:** it has not been validated beyond the patients of the scores below.",
        "## What it segments",
        _table(("label", "structure"), zip(record.label_ids, record.class_names, strict=True)),
        *(["A voxel may belong to several of them."] if record.overlapping else []),
        *(
            [f"Not in the training labels, and never predicted: {_plain(', '.join(record.absent))}."]
            if record.absent
            else []
        ),
        "## How to use it",
        _usage(repository, place),
        "## What it is",
        f"{_plain(facts.summary)} The method: {_plain('; '.join(facts.references) or facts.method)}.",
        _table(("", ""), _model(facts, repository)),
        "## Scores",
        _scores(record, metrics),
        "## Licence",
        (f"The adapter: {origin.licence}." if origin.licence else "The author of the adapter stated no licence.")
        + f" The base weights: {_base_licence(origin.base.name)}.",
        "## Software",
        ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in facts.versions) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(repository: Repository) -> str:
    """What hubs read, as YAML between lines of dashes."""
    record, origin = repository.record, repository.origin
    content: dict[str, Any] = {
        "library_name": "medsam-adapt",
        "pipeline_tag": "image-segmentation",
        "tags": ["medsam-adapt", "segment-anything", "medical", "3d", record.bundle, record.policy.modality.lower()],
    }
    if record.policy.modality != "CT":
        content["tags"].pop()
    if origin.licence is not None:
        content = {"license": origin.licence.lower(), **content}
    if origin.base.name in _ON_THE_HUB:
        content |= {"base_model": _ON_THE_HUB[origin.base.name], "base_model_relation": "adapter"}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _usage(repository: Repository, place: str) -> str:
    """The commands from here to masks."""
    origin, record = repository.origin, repository.record
    source, install = (place, '"medsam-adapt[hub]"') if place.startswith("hf://") else ("THIS_FOLDER", "medsam-adapt")
    base = WEIGHTS.get(origin.base.name or "")
    lines = [f"pip install {install}"]
    if base is not None and not base.shipped:
        lines.append(f"medsam-adapt weights download {base.name}")
    given = "" if base is not None else f' --checkpoint "{origin.base.file_name}"'
    prompts = "" if record.prompt == "none" else " --prompts prompts.json"
    lines += [
        f"medsam-adapt adapters pull {source} --output runs/pulled{given}",
        f"medsam-adapt predict runs/pulled -i SCANS -o MASKS{prompts}",
    ]
    return "\n".join(["```bash", *lines, "```"])


def _model(facts: Facts, repository: Repository) -> Iterable[Sequence[Any]]:
    """Rows about network and training."""
    record, base = repository.record, repository.origin.base
    yield "base weights", f"{base.name or base.file_name}, SHA-256 {base.sha256}"
    yield from (row for row in facts.model if row[0] != "started from")
    yield "size of the adapter", f"{decimal(repository.adapter_bytes)} ({ADAPTER_WEIGHTS})"
    yield "trained on", counted(len(record.train), "case")
    yield "held out", counted(len(record.held_out), "case")


def _scores(record: RunRecord, metrics: Mapping[str, Any] | None) -> str:
    """Means over cases of each class, and the notes that belong to them."""
    if metrics is None:
        return "None were recorded with the run."
    shown = [name for name in _SHOWN if name in metrics["rules"]["metrics"]]
    heads = ["structure", *(f"{METRICS[name].label} {METRICS[name].unit}".strip() for name in shown), "cases"]
    rows = [
        [name, *(_number(row[metric], metric) for metric in shown), row["cases"]]
        for name, row in metrics["classes"].items()
    ]
    mean = ["mean", *(_number(metrics["mean"][metric], metric) for metric in shown), len(metrics["cases"])]
    known = len(set(metrics["cases"]) & {*record.train})
    notes = [
        f"Mean over {counted(len(metrics['cases']), 'case')} (used for training: {known or 'none'}), by the protocol "
        f"'{_plain(metrics['rules']['protocol'])}' of 'medsam-adapt evaluate'."
    ]
    if known:
        notes.append("Scores on training cases are optimistic.")
    elif set(metrics["cases"]) & {*record.held_out} and record.knobs["val_interval"] < record.knobs["epochs"]:
        notes.append("Training selected the best weights on the held-out cases, so these scores are optimistic.")
    if record.prompt != "none":
        notes.append(SEES_THE_ANSWER)
    return f"{_table(heads, [*rows, mean])}\n\n{' '.join(notes)} A dash means undefined in all cases."


def _base_licence(name: str | None) -> str:
    weights = WEIGHTS.get(name or "")
    return "unknown; ask their author" if weights is None else f"{weights.licence} ({weights.name})"


def _number(value: float | None, metric: str) -> str:
    return "–" if value is None else f"{value:.1f}" if METRICS[metric].unit else f"{value:.3f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_plain(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no new line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
