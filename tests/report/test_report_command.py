import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.core.files import write_json
from medsam_adapt.report.facts import facts_of
from medsam_adapt.runs.record import read_run
from medsam_adapt.scoring.summary import read_metrics
from tests.report.conftest import HOSTILE_CASE, HOSTILE_CLASS


def call(capsys, *arguments):
    """Exit code, standard output and standard error of ``report``."""
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text in each script and style."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._within = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._within = tag

    def handle_endtag(self, tag):
        self._within = None

    def handle_data(self, data):
        if self._within in ("script", "style"):
            self.texts.append((self._within, data))

    def values(self, tag, attribute):
        return [attributes[attribute] for name, attributes in self.elements if name == tag and attribute in attributes]


@pytest.fixture(scope="module")
def page_text(scored_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(scored_run), "--output", str(path)])
    assert not stopped.value.code
    return path.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_anywhere(page_text):
    page = Page(page_text)
    assert "http:" not in page_text
    assert "https:" not in page_text
    assert "@import" not in page_text
    addresses = [
        address for tag, attributes in page.elements for name in ("src", "href") if (address := attributes.get(name))
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    assert re.findall(r"url\(", page_text) == []


def test_the_policy_admits_the_one_script_and_the_one_style_sheet_and_no_network(page_text):
    page = Page(page_text)
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    texts = dict(page.texts)  # the last script is the one that runs
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(texts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not any(
        "style" in attributes or any(name.startswith("on") for name in attributes) for _, attributes in page.elements
    )


def test_names_are_text_and_nothing_else(page_text):
    page = Page(page_text)
    assert HOSTILE_CASE not in page_text
    assert HOSTILE_CLASS not in page_text
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 2
    assert HOSTILE_CASE in page.values("button", "data-show")
    content = json.loads(next(text for tag, text in page.texts if tag == "script"))
    assert content["classes"][0]["name"] == HOSTILE_CLASS
    assert HOSTILE_CASE in [case["id"] for case in content["cases"]]


def test_its_numbers_are_those_of_the_metrics(page_text, scored_run):
    metrics = read_metrics(scored_run)
    shown = [float(value) for value in Page(page_text).values("data", "value")]
    names = ("dsc", "iou", "hd95", "nsd")
    expected = [metrics["mean"][name] for name in names]
    for row in metrics["classes"].values():
        expected += [value for name in names for value in (row[name], row["statistics"][name]["sd"])]
    expected += [metrics["mean"][name] for name in names]
    ranked = sorted(metrics["cases"].values(), key=lambda case: case["mean"]["dsc"])
    for case in ranked:
        expected += [case["mean"][name] for name in names] + [row["dsc"] for row in case["classes"].values()]
    expected += [case["mean"]["dsc"] for case in ranked]  # of the pictures: worst, median and best of three
    assert shown == [value for value in expected if value is not None]


def test_it_states_what_must_be_known_and_no_folder(page_text, scored_run):
    assert "secret" not in page_text
    assert str(scored_run) not in page_text
    assert "BLO-SAM" in page_text
    assert "arXiv 2402.16338" in page_text
    assert "sam.pth" in page_text
    assert "Scores of cases that were trained on are optimistic: 1 of 3 cases." in page_text
    assert len(page_text) < 400_000


@pytest.mark.parametrize("tuned", [False, True])
def test_the_summary_mentions_an_encoder_that_was_trained(scored_run, tuned):
    record = read_run(scored_run).model_copy(update={"tune_encoder": tuned})
    summary = facts_of(scored_run, record).summary
    assert "Frozen image encoder" in summary
    assert ("the whole image encoder was trained as well" in summary) == tuned


def test_identifiers_are_kept_where_they_are_wanted(scored_run, tmp_path, capsys):
    path = tmp_path / "page.html"
    assert call(capsys, scored_run, "--output", path, "--keep-identifiers", "--no-images")[0] == 0
    text = path.read_text(encoding="utf-8")
    assert "secret_hospital" in text
    assert "/home/secret_user/sam.pth" in text


def test_without_images_the_page_shows_nothing_of_the_patients(scored_run, tmp_path, capsys):
    path = tmp_path / "page.html"
    assert (scored_run / "pictures" / "worst.png").is_file()
    assert call(capsys, scored_run, "--output", path, "--no-images")[0] == 0
    text = path.read_text(encoding="utf-8")
    assert "data:image" not in text
    assert 'id="stage"' not in text  # no slices: no viewer
    assert 'id="case-scores"' in text


@pytest.mark.parametrize("missing", ["metrics.json", "shown_cases.json"])
def test_a_run_that_was_not_evaluated_is_refused_with_the_command_to_run(scored_run, tmp_path, capsys, missing):
    run = shutil.copytree(scored_run, tmp_path / "run", ignore=shutil.ignore_patterns(missing))
    code, _, err = call(capsys, run)
    assert code == 2
    assert f"medsam-adapt evaluate {run}" in err
    assert not (run / "report.html").exists()
    assert call(capsys, run, "--no-images")[0] == (2 if missing == "metrics.json" else 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("key_index", 99), ("prediction", []), ("per_sheet", 0), ("reference", "outline"), ("case", None)],
)
def test_damaged_cases_are_refused(scored_run, tmp_path, capsys, field, value):
    run = shutil.copytree(scored_run, tmp_path / "run")
    content = json.loads((run / "shown_cases.json").read_text())
    worst = content["cases"]["worst"]
    worst[field] = [{"1": "9,9,8"} for _ in worst["numbers"]] if value == "outline" else value
    (run / "shown_cases.json").write_text(json.dumps(content))
    code, _, err = call(capsys, run)
    assert code == 2
    assert "shown_cases.json: it is damaged" in err


def test_it_loads_no_network_and_no_volume(scored_run, tmp_path):
    """Nothing of torch and MONAI can be imported, and the data set is gone."""
    run = shutil.copytree(scored_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", {**record, "dataset_dir": str(tmp_path / "gone")})
    (run / "models" / "model.pt").write_bytes(b"")
    code = "import sys; sys.modules.update(torch=None, monai=None, nibabel=None); "
    code += "from medsam_adapt.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "report", str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "data:image/jpeg" in (run / "report.html").read_text(encoding="utf-8")


def test_masks_whose_scores_differ_from_the_tables_are_noted(scored_run, tmp_path, capsys):
    run = shutil.copytree(scored_run, tmp_path / "run")
    metrics = read_metrics(run)
    metrics["cases"]["phantom_000"]["mean"]["dsc"] += 0.01
    write_json(run / "metrics.json", metrics)
    code, out, _ = call(capsys, run)
    assert code == 0
    assert "note: Case phantom_000: the scores of the masks shown differ" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "page.txt"], "page.txt: its name does not end in .html"),
        (["--output", "nowhere/page.html"], "nowhere: it does not exist"),
        (["--output", "there.html"], "there.html: it already exists"),
    ],
)
def test_wrong_input_is_rejected_and_nothing_is_written(scored_run, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    code, _, err = call(capsys, scored_run, *arguments)
    assert code == 2
    assert sentence in err
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    code, _, err = call(capsys, tmp_path)
    assert code == 2
    assert "is not a run" in err
