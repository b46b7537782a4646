"""A short share of the fuzzing; ``python -m tests.fuzz --inputs 10000 --seed 0`` is the long one."""

import json
import os
import subprocess
import warnings

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.io import read_header
from tests.fuzz.fuzz import Fuzzer
from tests.fuzz.kinds import KINDS
from tests.fuzz.watch import watch

SHARE = 10  # inputs of each kind


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    made = Fuzzer(tmp_path_factory.mktemp("fuzz"), seed=2026)
    yield made
    made.close()


def test_every_input_ends_as_promised(fuzzer):
    verdicts = [(number, *fuzzer.attempt(number)) for number in range(SHARE * len(KINDS))]
    assert [(number, kind, *verdict) for number, kind, verdict in verdicts if verdict.is_breach] == []
    ended = {verdict.outcome for _, _, verdict in verdicts}
    assert {"done", "refused"} <= ended
    assert ended <= {"done", "refused", "failed"}


def test_the_same_seed_gives_the_same_inputs(fuzzer):
    twice = [[fuzzer.attempt(number) for number in range(len(KINDS))] for _ in range(2)]
    assert twice[0] == twice[1]


def test_a_header_that_claims_the_world_is_refused(tmp_path):
    """10⁶ × 10⁶ × 10⁶ voxels: reported from the header, with nothing set aside."""
    header = nib.Nifti2Header()
    header.set_data_shape((10**6,) * 3)
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header.set_qform(np.eye(4), 1)
    header["vox_offset"] = 544
    (tmp_path / "vast.nii").write_bytes(header.binaryblock.ljust(544, b"\0") + b"\0" * 1000)
    with pytest.raises(InputError, match="claims 2,000,000,000,000,000,544 bytes"):
        read_header(tmp_path / "vast.nii")
    sizes = "type: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 1000000 1000000 1000000\n"
    sizes += "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    (tmp_path / "vast.nrrd").write_bytes(f"NRRD0004\n{sizes}space origin: (0,0,0)\n\n".encode() + b"\0" * 1000)
    with pytest.raises(InputError, match=r"vast\.nrrd"):
        read_header(tmp_path / "vast.nrrd")


# ------------------------------------------------------------------------------------- that the watch sees each breach


def _breach(folder, command):
    (folder / "home").mkdir(parents=True)
    return watch(command, folder, ["Doe"]).outcome


def _exit(code, text="error: no."):
    def end():
        print(text)
        raise SystemExit(code)

    return end


def _leaves_half(folder):
    def end():
        (folder / "out").mkdir()
        _exit(2)()

    return end


def test_the_watch_sees_every_breach(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.watch.HANG_SECONDS", 0.2)
    folder = tmp_path / "in"
    commands = {
        "done": _exit(0, ""),
        "refused": _exit(2),
        "failed": _exit(1),
        "traceback": lambda: json.loads("{"),
        "no sentence": _exit(2, ""),
        "exit code": _exit(3),
        "reported a secret": _exit(2, "error: Doe is missing."),
        "warning": lambda: warnings.warn("overflow", RuntimeWarning, stacklevel=1),
        "hang": lambda: [None for _ in iter(int, 1)],
        "memory": lambda: bytearray(1 << 40),
        "partial output": _leaves_half(folder / "partial output"),
        "ran or wrote what it must not": lambda: os.system("true"),
    }
    found = {name: _breach(folder / name, command) for name, command in commands.items()}
    assert found == {name: name for name in commands}


@pytest.mark.parametrize(
    "act",
    [
        lambda place: subprocess.run(["true"], check=False),
        lambda place: (place / "elsewhere").write_text("x"),
        lambda place: (place / "folder").mkdir(),
        lambda place: (place / "link").symlink_to("x"),
    ],
)
def test_what_a_command_does_elsewhere_is_seen(act, tmp_path):
    assert _breach(tmp_path / "in", lambda: act(tmp_path)) == "ran or wrote what it must not"


def test_what_a_library_writes_past_python_is_seen(tmp_path):
    assert _breach(tmp_path / "in", lambda: os.write(2, b"MetaImage: cannot read")) == "warning"
