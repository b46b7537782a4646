"""``medsam-adapt annotate``: what it refuses before it starts, and what a killed server leaves on the disk."""

import os
import re
import signal

import numpy as np
import pytest

from medsam_adapt.cli.annotate import read_token
from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from tests.annotation.conftest import changes, painted
from tests.warm import running_anew


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["annotate", *map(str, arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_wrong_input_is_named_and_nothing_is_written(scans, capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert "--classes: none are given" in refused(capsys, scans)
    assert "Did you mean 'nnunet'" in refused(capsys, scans, "--classes", "liver", "--layout", "nnunt")
    assert "it is not a folder. Give a folder of scans" in refused(capsys, tmp_path / "nothing", "--classes", "liver")
    assert "Add --token-file" in refused(capsys, scans, "--classes", "liver", "--host", "0.0.0.0")
    assert "Begin it with https://" in refused(capsys, scans, "--classes", "liver", "--public-address", "example.org")
    wrong = refused(capsys, scans, "--classes", "liver", "--model", tmp_path / "no_run")
    assert "no_run" in wrong
    assert sorted(tmp_path.rglob("*")) == before


def test_a_token_file_is_made_once_and_only_for_its_owner(tmp_path):
    path = tmp_path / "token"
    token = read_token(path)
    assert len(token) >= 40
    assert read_token(path) == token
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        with pytest.raises(InputError, match="other users can read it"):
            read_token(path)


@pytest.mark.parametrize("content", ["short", "with a space in the middle of it", "ä" * 40])
def test_a_weak_token_is_refused(tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(InputError, match="a token has at least 24"):
        read_token(path)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_killed_server_loses_nothing_that_it_answered(scans, boxes_run, tmp_path):
    import httpx

    from medsam_adapt.annotation.opening import open_session

    code = "import sys; sys.stdout.reconfigure(line_buffering=True); "
    code += "from medsam_adapt.cli.main import main; main(sys.argv[1:])"
    command = ["annotate", scans, "--classes", "liver,spleen", "--model", boxes_run, "--device", "cpu", "--no-browser"]
    with running_anew(code, *command, "--output", tmp_path / "out") as (server, out):
        printed = ""
        while (address := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", printed)) is None:
            line = out.readline()
            assert line, f"the server did not start: {printed}"
            printed += line
        headers = {"Authorization": f"Bearer {address[2]}"}
        with httpx.Client(base_url=address[1], headers=headers, timeout=60, trust_env=False) as page:
            for version in range(3):
                body = changes(painted((36, 40), 2), index=version, version=version, step=version)
                page.patch("/api/scans/phantom_001/label", json=body).raise_for_status()
        assert server.is_alive()
    found = open_session(scans, output=tmp_path / "out").drawing("phantom_001")
    assert np.flatnonzero(found.label.any(axis=(0, 1))).tolist() == [0, 1, 2]
    assert np.count_nonzero(found.label == 2) == 3 * 72
    assert [each.kind for each in found.authors] == ["person"]


def test_a_server_that_is_stopped_saves_what_was_drawn(scans, boxes_run, tmp_path, monkeypatch, capsys):
    """Ctrl+C and SIGTERM: uvicorn ends in order and raises the signal again."""
    import uvicorn

    from medsam_adapt.annotation import application

    sessions = []
    make = application.create_app
    monkeypatch.setattr(
        application, "create_app", lambda session, *others: sessions.append(session) or make(session, *others)
    )

    def draw_and_stop(self, sockets):
        with sessions[0].changing("phantom_000") as drawing:
            drawing.paint("axial", {3: painted((36, 40))}, sessions[0].person)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(uvicorn.Server, "run", draw_and_stop)
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(
            ["annotate", str(scans), "--classes", "liver", "--model", str(boxes_run), "--no-browser", "-o", str(output)]
        )
    assert not stopped.value.code
    assert "All labels are saved" in capsys.readouterr().out
    assert (output / "drafts" / "phantom_000.nii.gz").is_file()
