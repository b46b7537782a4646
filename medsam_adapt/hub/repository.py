"""A finished run as a repository that can be published, and such a repository as a run again.

REPOSITORY/README.md             the model card, for people
           medsam_adapt.json     which base weights the adapter belongs to, and what it must come to with them
           run.json              the run's record without information about the patients
           statistics.json       volumes and grey levels of the classes in the training cases, where the run has them
           adapter/              the trained tensors alone, with their settings

Only what can be pulled is pushed: base weights and adapter must give the run's weights bit by bit. What is pulled is
not trusted: it is data, checked, from which shipped code makes a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.config import PATH_SETTINGS
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256, folder_written_whole, read_record, write_json
from medsam_adapt.hub.model_card import model_card
from medsam_adapt.hub.origin import LICENCE, BaseWeights, Origin, Repository
from medsam_adapt.hub.places import ADAPTER_WEIGHTS, CARD_FILE, ORIGIN_FILE, Place
from medsam_adapt.runs.record import (
    ADAPTER_FOLDER,
    MODEL_FILE,
    RUN_FILE,
    RunRecord,
    read_run,
    require_trained,
    write_run,
)
from medsam_adapt.runs.statistics import STATISTICS_FILE, TrainingStatistics
from medsam_adapt.scoring.summary import METRICS_FILE, read_metrics
from medsam_adapt.weights.registry import WEIGHTS
from medsam_adapt.weights.store import resolve

if TYPE_CHECKING:  # it imports torch
    from medsam_adapt.networks.segmenter import Segmenter

_FIX = "Fetch the repository again, or ask its author."


def push(run: Path, place: Place, licence: str | None = None, checkpoint: str | None = None) -> Origin:
    """Write a run's adapter as a repository, after a check that the base weights and it give the run again.

    Args:
        run: the folder of a finished run.
        place: where to.
        licence: of the adapter, an SPDX name; None states none.
        checkpoint: the base weights, name or file, where they are not where training found them.

    Raises:
        InputError: no finished run, one whose base weights others cannot have, or a licence that is none.
        RunError: the hub cannot be reached.
    """
    if licence is not None and not re.fullmatch(LICENCE, licence):
        raise InputError(f"--license {licence}: it is not a licence identifier. Use an SPDX name, such as Apache-2.0.")
    record = read_run(run)
    weights = require_trained(run)
    _checked(run, record)
    path, base = _base_of(run, record, checkpoint)
    statistics = run / STATISTICS_FILE
    if statistics.is_file():
        record.statistics = read_record(statistics, TrainingStatistics, "Restore it, or remove it to do without.")
    metrics = read_metrics(run) if (run / METRICS_FILE).is_file() else None
    if metrics is not None and set(metrics["classes"]) != set(record.class_names):
        raise InputError(
            f"{run / METRICS_FILE}: it has other classes than the run. Evaluate the run again, or remove the file."
        )

    from medsam_adapt.inference.run_network import build_network
    from medsam_adapt.networks.parameters import load_adapter, save_adapter
    from medsam_adapt.networks.sam import weights_sha256
    from medsam_adapt.weights.reading import read_weights

    network = build_network(record, path, _seed(record))
    _refuse_other_base(run, run / ADAPTER_FOLDER, network, path)
    load_adapter(network, run / ADAPTER_FOLDER)
    rebuilt = weights_sha256(network)
    try:
        network.load_state_dict(read_weights(weights))
    except RuntimeError as error:
        raise InputError(f"{weights}: it does not match {run / RUN_FILE}. Restore the run folder.") from error
    if weights_sha256(network) != rebuilt:
        raise InputError(
            f"{run}: it is not {base.name or base.file_name} plus its adapter, so it cannot be rebuilt from them. "
            "Publish a run whose frozen weights are those of its checkpoint."
        )
    with place.written() as folder:
        save_adapter(network, folder / "adapter")
        origin = Origin(
            base=base,
            adapter_sha256=file_sha256(folder / ADAPTER_WEIGHTS),
            network_sha256=rebuilt,
            licence=licence,
        )
        write_json(folder / RUN_FILE, anonymous(record, base).model_dump())
        if record.statistics is not None:
            write_json(folder / STATISTICS_FILE, record.statistics.model_dump())
        size = (folder / ADAPTER_WEIGHTS).stat().st_size
        card = model_card(run, Repository(origin, record, size), metrics, str(place))
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        write_json(folder / ORIGIN_FILE, origin.model_dump())
    return origin


@contextmanager
def opened(place: Place) -> Iterator[tuple[Path, Repository]]:
    """A temporary copy of a repository, and its description of itself; nothing in it is run.

    Raises:
        InputError: no such repository, or files that are damaged or not what they should be.
        RunError: the hub cannot be reached.
    """
    with place.fetched() as folder:
        origin = read_record(folder / ORIGIN_FILE, Origin, _FIX)
        record = read_run(folder)
        record = anonymous(_checked(place, record), origin.base)
        weights = folder / ADAPTER_WEIGHTS
        if file_sha256(weights) != origin.adapter_sha256:
            raise InputError(f"{place}: the adapter is damaged (it differs from what {ORIGIN_FILE} lists). {_FIX}")
        yield folder, Repository(origin, record, weights.stat().st_size)


def pull(place: Place, output: Path, checkpoint: str | None = None) -> bool:
    """Make a run's folder of a repository.

    Args:
        place: of the repository.
        output: the folder to make; what is there is replaced.
        checkpoint: the base weights, name or file; needed where they are not published ones.

    Returns:
        Whether the weights are bit-identical to those that were pushed. Another version of torch, or another
        processor, may round otherwise where position tables are resized or singular values computed; a ``run.json``
        that was changed may be the cause too.

    Raises:
        InputError: as `opened`, or base weights that are missing or other ones.
        RunError: the hub cannot be reached.
    """
    with opened(place) as (folder, repository):
        origin, record = repository.origin, repository.record
        path = _base_for(place, repository, checkpoint)
        if (folder / STATISTICS_FILE).is_file():
            record.statistics = read_record(folder / STATISTICS_FILE, TrainingStatistics, _FIX)

        from medsam_adapt.inference.run_network import build_network
        from medsam_adapt.networks.adapter_config import saved_base
        from medsam_adapt.networks.parameters import load_adapter, save_adapter
        from medsam_adapt.networks.sam import weights_sha256
        from medsam_adapt.runs.checkpoint import save_tensors

        network = build_network(record, path, _seed(record))
        if file_sha256(path) == origin.base.sha256:
            network.base_sha256 = saved_base(folder / "adapter")  # resizing may have rounded otherwise here
        _refuse_other_base(place, folder / "adapter", network, path)
        load_adapter(network, folder / "adapter")
        if checkpoint is not None:
            record.knobs["checkpoint"] = checkpoint if checkpoint in WEIGHTS else str(path.resolve())
        with folder_written_whole(output) as made:
            write_run(made, record, bundle_folder(record.bundle))
            (made / MODEL_FILE).parent.mkdir()
            save_tensors(network.state_dict(), made / MODEL_FILE)
            save_adapter(network, made / ADAPTER_FOLDER)
        return weights_sha256(network) == origin.network_sha256


def anonymous(record: RunRecord, base: BaseWeights) -> RunRecord:
    """The record without information about patients and machine: cases are numbered, folders removed.

    Args:
        record: of the run.
        base: the weights that it started from; the run that it continued from is omitted.
    """
    knobs = {**record.knobs, **dict.fromkeys(PATH_SETTINGS), "checkpoint": base.name}
    changes: dict[str, Any] = {
        "bundle_sha256": None,
        "dataset_dir": "",
        "train": [f"training case {number}" for number in range(1, len(record.train) + 1)],
        "trained_before": [],
        "held_out_before": [],
        "held_out": [f"held-out case {number}" for number in range(1, len(record.held_out) + 1)],
        "unlabelled": [f"scan {number}" for number in range(1, len(record.unlabelled) + 1)],
        "knobs": knobs,
        "started_from": base.name or base.file_name,
    }
    return record.model_copy(update=changes)


def _checked(where: Path | Place, record: RunRecord) -> RunRecord:
    """The record with all settings that its bundle has, none of them a path.

    Raises:
        InputError: a bundle or settings that this version does not have, or names that a terminal would act on.
    """
    bundle_folder(record.bundle)
    if not all(name.isprintable() for name in record.class_names):
        raise InputError(f"{where}: it has a class whose name cannot be printed. {_FIX}")
    knobs = run_knobs(record.bundle, **{**record.knobs, **dict.fromkeys(PATH_SETTINGS)})
    return record.model_copy(update={"knobs": knobs.model_dump()})


def _base_of(run: Path, record: RunRecord, checkpoint: str | None) -> tuple[Path, BaseWeights]:
    """The file of the weights that a run started from, and what others know it by.

    Raises:
        InputError: weights that others cannot have, or that are not on this machine.
    """
    if record.bundle_sha256 is not None:
        raise InputError(
            f"{run}: it was trained by a bundle that is not shipped, which others do not have. Publish a run of one of "
            "the shipped bundles."
        )
    path = resolve(checkpoint or record.knobs.get("checkpoint"), record.backbone)
    if path is None:
        raise InputError(
            f"{run}: it started from random weights, which others do not have. Publish a run that started from a "
            "checkpoint."
        )
    sha256 = file_sha256(path)
    name = next((weights.name for weights in WEIGHTS.values() if weights.sha256 == sha256), None)
    file_name = re.sub(r"[^\w.+ ()-]", "_", path.name)[:200]
    return path, BaseWeights(name=name, file_name=file_name, sha256=sha256)


def _base_for(place: Place, repository: Repository, checkpoint: str | None) -> Path:
    """The file of the weights to put a repository's adapter on.

    Raises:
        InputError: weights that are not published and were not given, or that are not on this machine.
    """
    base = repository.origin.base
    if checkpoint is None and base.name not in WEIGHTS:
        raise InputError(
            f"{place}: the adapter belongs to weights that are not published, the file {base.file_name} with SHA-256 "
            f"{base.sha256}. Get it from the author, and give it as --checkpoint FILE."
        )
    path = resolve(checkpoint or base.name, repository.record.backbone)
    if path is None:
        raise InputError(
            f"--checkpoint random: the adapter of {place} does not belong to random weights. Leave out --checkpoint "
            "random."
        )
    return path


def _refuse_other_base(where: Path | Place, adapter: Path, network: Segmenter, path: Path) -> None:
    """Refuse base weights that the adapter was not trained on.

    Raises:
        InputError: other weights.
    """
    from medsam_adapt.networks.adapter_config import saved_base

    if saved_base(adapter) not in ("", network.base_sha256):  # load_adapter reports a file that cannot be read
        raise InputError(
            f"--checkpoint {path.name}: the adapter of {where} was not trained on it. Give the weights that it was "
            "trained on as --checkpoint FILE."
        )


def _seed(record: RunRecord) -> int:
    return int(record.knobs.get("seed", 0))
