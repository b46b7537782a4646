import stat
import zipfile

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.archives import unpacked
from tests.data.dicom_files import SECRET, save, series


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def test_an_archive_of_a_series_is_a_volume_for_the_block(tmp_path):
    folder = save(tmp_path / "ct", series())
    members = [(f"{SECRET}/study/{path.name}", path.read_bytes()) for path in folder.iterdir()]
    path = archive(tmp_path / "case 7.zip", [("__MACOSX/x", b""), *members])
    with unpacked(path) as content:
        assert io.volume_stem(content) == "case 7"
        np.testing.assert_array_equal(io.read_volume(content)[0], io.read_volume(folder)[0])
    assert not content.exists()


def link(name):
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


BAD = {
    "up": ([("a/../../b", b"x")], "lead out.*Unpack it"),
    "absolute": ([("/etc/b", b"x")], "lead out.*Unpack it"),
    "drive": ([("C:/b", b"x")], "lead out.*Unpack it"),
    "backslash": ([("a\\..\\b", b"x")], "lead out.*Unpack it"),
    "link": ([(link(SECRET), b"/etc/passwd")], "links.*Unpack it"),
    "a file below a file": ([("a", b"x"), ("a/b", b"x")], "cannot be unpacked.*Save it"),
    "empty": ([], "holds 0 files.*Give"),
    "large": ([("a", bytes(3_000_000))], "holds 3,000,000 bytes.*Unpack it yourself"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_is_not_to_be_trusted_is_refused(tmp_path, case):
    members, sentence = BAD[case]
    path = archive(tmp_path / "a.zip", members)
    with pytest.raises(InputError, match=f"^{path}: .*{sentence}") as reported, unpacked(path, largest=1_000_000):
        pass
    assert SECRET not in str(reported.value)
    assert [item.name for item in tmp_path.iterdir()] == ["a.zip"]


def test_a_claim_of_more_than_is_held_and_damage_are_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("a", bytes(range(256)) * 40)])
    content = path.read_bytes()
    path.write_bytes(content.replace((256 * 40).to_bytes(4, "little"), (500_000_000).to_bytes(4, "little")))
    with pytest.raises(InputError, match="claims more"), unpacked(path):
        pass
    path.write_bytes(content[:40] + bytes(20) + content[60:])
    with pytest.raises(InputError, match="cannot be unpacked"), unpacked(path):
        pass
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a zip archive"), unpacked(path):
        pass
    with pytest.raises(InputError, match="does not exist"), unpacked(tmp_path / "none.zip"):
        pass
