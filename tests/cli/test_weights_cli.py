"""``medsam-adapt weights``: what it prints, and its exit codes."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.weights import WEIGHTS
from medsam_adapt.weights import http as transfer
from tests.weights.weights_server import serving

CONTENT = b"weights" * 1000


def call(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main(["weights", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE", 0)
    return tmp_path / "home"


@pytest.fixture
def server(monkeypatch):
    """A server that has the weights sam_vit_b."""
    with serving(CONTENT) as running:
        values = {"url": running.url, "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
        monkeypatch.setitem(WEIGHTS, "sam_vit_b", dataclasses.replace(WEIGHTS["sam_vit_b"], **values))
        yield running


def rows(capsys):
    code, out, _ = call(capsys, "list", "--json")
    assert code == 0
    return {row["name"]: row for row in json.loads(out)}


def test_the_list(shipped_nano, capsys):
    code, out, _ = call(capsys, "list")
    assert code == 0
    for words in (
        ["sam_nano", "vit_nano", "shipped"],
        ["sam_vit_h", "2,565 MB", "Apache-2.0", "not here"],
        ["CC-BY-4.0"],
    ):
        assert any(all(word in line for word in words) for line in out.splitlines())


def test_download_then_verify(shipped_nano, server, home, capsys):
    assert rows(capsys)["sam_vit_b"]["state"] == "not here"
    code, out, _ = call(capsys, "download", "sam_vit_b")
    assert code == 0
    assert "--backbone vit_b --checkpoint sam_vit_b" in out
    row = rows(capsys)["sam_vit_b"]
    assert (row["state"], row["path"]) == ("downloaded", str(home / "weights" / "sam_vit_b_01ec64.pth"))
    code, out, _ = call(capsys, "verify")
    assert code == 0
    assert f"sam_vit_b: SHA-256 {row['sha256']}, as published" in out
    assert "sam_nano: SHA-256" in out
    assert "here already" in call(capsys, "download", "sam_vit_b")[1]
    assert len(server.asked) == 1
    assert call(capsys, "download", "sam_vit_b", "--overwrite")[0] == 0
    assert len(server.asked) == 2


def test_verify_names_every_damaged_file(shipped_nano, server, home, capsys):
    call(capsys, "download", "sam_vit_b")
    (home / "weights" / "sam_vit_b_01ec64.pth").write_bytes(b"damaged")
    code, out, err = call(capsys, "verify")
    assert code == 1
    assert "sam_vit_b_01ec64.pth: it is damaged" in err
    assert "weights download sam_vit_b --overwrite" in err
    assert "sam_nano: SHA-256" in out


def test_a_failed_download_is_a_sentence(server, home, capsys):
    server.content = CONTENT[::-1]
    code, _, err = call(capsys, "download", "sam_vit_b")
    assert code == 1
    assert err.startswith("error: sam_vit_b: what was downloaded is not the published file")
    assert "Traceback" not in err
    assert list((home / "weights").iterdir()) == []


def test_import(server, tmp_path, capsys):
    (tmp_path / "fetched.pth").write_bytes(CONTENT)
    code, out, _ = call(capsys, "import", tmp_path / "fetched.pth")
    assert code == 0
    assert "Imported sam_vit_b" in out
    assert rows(capsys)["sam_vit_b"]["state"] == "downloaded"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["download", "sam_vitb"], "sam_vitb: there are no weights of this name. Did you mean 'sam_vit_b'? Use one of"),
        (["verify", "sam_vit_l"], "Run 'medsam-adapt weights download sam_vit_l'"),
        (["import", "nowhere.pth"], "nowhere.pth: it does not exist"),
        (["import", __file__, "--name", "sam_vit_h"], "is not sam_vit_h"),
    ],
)
def test_wrong_input(capsys, arguments, words):
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"], ["download", "--help"], ["verify"]])
def test_no_torch_is_loaded(arguments, tmp_path):
    code = f"""
from medsam_adapt.cli.main import app
app({["weights", *arguments]!r}, standalone_mode=False)
import sys
print([module for module in ("torch", "monai") if module in sys.modules])
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip().endswith("[]")
