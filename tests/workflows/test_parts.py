"""Cases shared among processes: together they write what one process does."""

import json

import pytest

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.workflows.evaluate import evaluate
from tests.made_runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    knobs = {**resolve_knobs("blosam", "default").model_dump(), "checkpoint": "random"}
    return make_run(tmp_path_factory.mktemp("made") / "run", knobs=knobs)


def written(folder):
    """Everything in a folder but the scores of single parts."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "-of-" not in path.name
    }


def test_the_last_part_of_a_run_writes_the_scores_of_all(run, phantoms, tmp_path, monkeypatch):
    options = {"data": phantoms, "device": "cpu"}
    whole = evaluate(run, output=tmp_path / "whole", **options)
    first = evaluate(run, output=tmp_path / "parts", part="2/2", **options)
    assert (first.missing, first.summary) == ((1,), {})
    assert [path.name for path in first.files] == ["metrics.2-of-2.json"]
    assert written(tmp_path / "parts") == {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    last = evaluate(run, output=tmp_path / "parts", **options)
    assert (last.missing, last.summary) == ((), whole.summary)
    assert written(tmp_path / "parts") == written(tmp_path / "whole")
    assert "shown_cases.json" in written(tmp_path / "parts")


def test_parts_by_other_rules_are_not_put_together(run, phantoms, tmp_path):
    options = {"data": phantoms, "device": "cpu", "output": tmp_path / "parts"}
    evaluate(run, part="1/2", metrics=["dsc"], **options)
    assert evaluate(run, part="2/2", metrics=["dsc", "nsd"], **options).missing == (1,)


@pytest.mark.parametrize("named", [True, False])
def test_the_last_part_of_masks_writes_the_scores_of_all(phantoms, tmp_path, named):
    masks = {"pred": phantoms / "labels", "ref": phantoms / "labels"}
    if named:
        masks["labels"] = phantoms / "labels.json"
    whole = evaluate(output=tmp_path / "whole", **masks)
    for number in (1, 3):
        assert evaluate(output=tmp_path / "parts", part=f"{number}/3", **masks).missing
    assert evaluate(output=tmp_path / "parts", part="2/3", **masks).summary == whole.summary
    assert written(tmp_path / "parts") == written(tmp_path / "whole")
    with pytest.raises(InputError, match="already exists"):
        evaluate(output=tmp_path / "parts", part="2/3", **masks)


def test_workers_of_a_cluster_write_the_scores_of_all(phantoms, tmp_path):
    pytest.importorskip("distributed")
    masks = {"pred": phantoms / "labels", "ref": phantoms / "labels"}
    evaluate(output=tmp_path / "whole", **masks)
    evaluate(output=tmp_path / "cluster", cluster="local:2", **masks)
    assert written(tmp_path / "cluster") == written(tmp_path / "whole")
    assert not list((tmp_path / "cluster").glob("metrics.*-of-*.json"))
    assert json.loads((tmp_path / "cluster" / "metrics.json").read_text())["mean"]["dsc"] == 1
