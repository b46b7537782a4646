"""Damaged and hostile zip archives."""

import io
import stat
import zipfile

from tests.fuzz import mutations
from tests.fuzz.mutations import pick

_NAMES = ("../escaped.nii", "/tmp/escaped.nii", "a/../../escaped.nii", "C:\\escaped.nii", "..\\escaped.nii", "x" * 300)
_NAMES += ("a" + "/a" * 300 + ".nii", "\n.nii", "é\u202e.nii", ".", "./a.nii", "a//b.nii", "a\0b.nii", "con.nii", "")


def changed_zip(rng, samples, path):
    """Write an archive of one volume or series, damaged or hostile."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", pick(rng, (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))) as archive:
        if rng.random() < 0.5:
            archive.writestr("scan/a.nii", samples.image)
        else:
            for index, item in enumerate((samples.folder / "series").iterdir()):
                archive.write(item, f"scan/IM{index}")
        how = int(rng.integers(7))
        if how == 0:
            archive.writestr(zipfile.ZipInfo(pick(rng, _NAMES)), samples.image)
        elif how == 1:
            link = zipfile.ZipInfo("scan/link.nii")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, pick(rng, ("/etc/passwd", "..", "a.nii")))
        elif how == 2:
            archive.writestr("scan/bomb.nii", b"\0" * (1 << 24), zipfile.ZIP_DEFLATED)
        elif how == 3:
            for _ in range(50):
                archive.writestr(f"d{int(rng.integers(1000))}/f{int(rng.integers(10**6))}", b"")
    content = bytearray(made.getvalue())
    if how == 4:  # the directory at the end claims another size than the member has
        at = content.rfind(b"PK\1\2")
        content[at + 20 : at + 28] = rng.bytes(8)
    elif how == 5:
        at = content.rfind(b"PK\1\2")
        content[at + 8 : at + 10] = b"\1\0"  # encrypted
    path.write_bytes(mutations.damaged(rng, bytes(content)) if how == 6 else bytes(content))
