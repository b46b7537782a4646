"""Text of every kind comes out of MONAI's parser as it went in."""

import sys

import pytest
from monai.bundle import ConfigParser, run

from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_typed, decoded, is_literal, literal, plain_path
from tests.warm import monai_bundle

TEXTS = [
    "run #1",
    "a::b",
    "x@#1",
    "@data",
    "$print(1)",
    "%scans",
    "50 % off #2",
    "#",
    "Läsion #1 'x' \"y\" \\ {z}",
    "patient@hospital.org",
    "plain",
    "",
    "a#b::c@d$e%f",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_parser_gives_back_what_was_typed(text):
    values = literal({"path": text, "knobs": {"_target_": "builtins.dict", "names": ["x", text], "number": 3}})
    parser = ConfigParser({"imports": ["$import os"], "joined": "$os.path.join(@path, 'models')", **values})
    assert parser.get_parsed_content("path") == text
    assert parser.get_parsed_content("knobs") == {"names": ["x", text], "number": 3}
    assert parser.get_parsed_content("joined") == f"{text}/models".removeprefix("" if text else "/")
    assert decoded(values) == {"path": text, "knobs": {"_target_": "builtins.dict", "names": ["x", text], "number": 3}}


def test_only_literals_are_harmless():
    assert is_literal(literal("run #1"))
    assert not is_literal("$bytes.fromhex('00').decode() + open('x').read()")
    assert not is_literal("$bytes.fromhex(open('x').read()).decode()")
    assert decoded("$print(1)") == "$print(1)"


def test_paths_that_would_be_run_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [plain_path(name) for name in ("@data", "%x", "$x", "a$b")] == [
        *(str(tmp_path / name) for name in ("@data", "%x", "$x")),
        "a$b",
    ]


MONAI = "/site-packages/monai/bundle/__main__.py"


@pytest.mark.parametrize(
    ("words", "name", "came", "typed"),
    [
        (["--output_dir", "run #1"], "output_dir", "run", "run #1"),  # Fire cuts comments off
        (["--output_dir=run #1"], "output_dir", "run", "run #1"),
        (["--knobs#cache_dir", "c #1"], "cache_dir", "c", "c #1"),
        (["--knobs::cache_dir", "c#1"], "cache_dir", "c::1", "c#1"),
        (["--output_dir", "a::b"], "output_dir", "a::b", "a::b"),
        (["--output_dir", "plain"], "output_dir", "plain", "plain"),
        (["--bundle_root", "b #1"], "output_dir", "b/run", None),
        (["--bundle_root", "b #1", "--output_dir", "x"], "output_dir", "x", "x"),
        ([], "output_dir", "run ::1", None),
    ],
)
def test_what_monai_changed_is_looked_up_or_refused(monkeypatch, words, name, came, typed):
    monkeypatch.setattr(sys, "argv", [MONAI, "run", *words])
    if typed is not None:
        assert as_typed(came, name) == typed
    else:
        with pytest.raises(InputError, match=rf"{name}: MONAI treats # as a special character and gave"):
            as_typed(came, name)


def test_other_programs_are_not_asked(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medsam-adapt", "train", "--output_dir", "run #1"])
    assert as_typed("run", "output_dir") == "run"
    with pytest.raises(InputError, match="use medsam-adapt"):
        as_typed("run ::2", "output_dir")
    literal({"output_dir": "our::own"})
    assert as_typed("our::own", "output_dir") == "our::own"


@pytest.mark.usefixtures("tiny_nano")
def test_both_doors_train_into_the_folder_that_was_named(phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patients #1").symlink_to(phantoms)
    small = ["--image-size", 32, "--epochs", 1, "--device", "cpu", "--set", "min_steps=1", "--set", "max_steps=1"]
    train = ["train", "--bundle", "decoder", "--data", "patients #1", "--output", "run #1"]
    for arguments in ([*train, "--cache-dir", "@cache #1", *small], ["evaluate", "run #1", "--device", "cpu"]):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert not stopped.value.code
    knobs = ["--knobs#cache_dir", "cache #3", "--knobs#image_size", 32, "--knobs#epochs", 1]
    knobs += ["--knobs#min_steps", 1, "--knobs#max_steps", 1]
    folders = ["--dataset_dir", "patients #1", "--output_dir", "again #2", "--bundle_root", bundle_folder("decoder")]
    config = bundle_folder("decoder") / "configs/train.json"
    done = monai_bundle("run", "--config_file", config, *folders, *knobs, folder=tmp_path)
    assert not done.code, done.err[-2000:]
    assert {path.name for path in tmp_path.iterdir()} == {"patients #1", "run #1", "@cache #1", "again #2", "cache #3"}
    assert (tmp_path / "again #2/models/model.pt").is_file()
    assert "patients ::1" not in (tmp_path / "run #1/configs/train.json").read_text()


def test_python_callers_of_monai_are_refused_before_anything_is_written(phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="build_trainer") as failed:
        run(
            config_file=str(bundle_folder("decoder") / "configs/train.json"),
            logging_file=False,
            dataset_dir=str(phantoms),
            output_dir="run #1",
            **{"knobs#epochs": 1, "knobs#image_size": 32, "knobs#min_steps": 1, "device": "cpu"},
        )
    causes = [failed.value, failed.value.__cause__]
    assert any("MONAI treats # as a special character" in str(cause) for cause in causes)
    assert list(tmp_path.iterdir()) == []
