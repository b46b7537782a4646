"""Damage, drawn from a seed: to bytes, to JSON, to text headers, to NIfTI headers and to DICOM data sets."""

import copy
import gzip
import json
import math

import nibabel as nib
import numpy as np

from medsam_adapt.data.volumes.formats.dicom_headers import quiet_dicom

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 255, 256, 32767, -32768, 65536, 10**6, 2**31 - 1, -(2**31), 2**63, 10**30, 0.5, -0.0)
NUMBERS += (1e-30, 1e-7, 1e30, 1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", " ", "0", "-1", "NaN", "1e999", "LIST", "LOCAL", "%03d.raw", "../../etc/passwd", "/etc/passwd", "..", "."),
    *(
        "$__import__('os').system('id')",
        "@knobs",
        "%train.json#x",
        "os.system",
        "medsam_adapt.cli.main",
        "a\0b",
        "a\nb",
    ),
    *("<script>alert(1)</script>", "[red]", "[/]", "é", "\u202e", "\ud800", "x" * 5000, "C:\\x", "nul", "~", "*", "{}"),
)
STRANGE = (None, True, False, [], {}, [[]], [None], {"": ""}, [1, [2, [3]]], {"_target_": "os.system", "command": "id"})
DEEP = 3000


def pick(rng, options):
    """One of ``options``, as it is."""
    return options[int(rng.integers(len(options)))]


# ------------------------------------------------------------------------------------------------------------- bytes


def damaged(rng, content):
    """``content`` with one to three changes of its bytes."""
    content = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 65))
        how = int(rng.integers(9))
        if how == 0:
            del content[at:]
        elif how == 1:
            del content[at : at + length]
        elif how == 2:
            content[at:at] = rng.bytes(length)
        elif how == 3:
            content[at : at + length] = bytes([int(pick(rng, (0, 255, 127, 10)))]) * len(content[at : at + length])
        elif how == 4:
            content[at:at] = content[at : at + length]
        elif how == 5:
            content[at : at + 4] = int(pick(rng, (2**31 - 1, 2**32 - 1, 10**6, 0))).to_bytes(4, "little")
        elif how == 6 and rng.random() < 0.1:
            content = bytearray(pick(rng, (b"", b"\0", rng.bytes(512), b"\x1f\x8b", b"PK\3\4", b"\0" * 4096)))
        elif how == 7 and len(content) > 8:  # in the header, where it does most harm
            content[int(rng.integers(min(len(content), 352)))] = int(rng.integers(256))
        elif at < len(content):
            content[at] ^= 1 << int(rng.integers(8))
    return bytes(content)


def zipped(content):
    """As gzip, fast."""
    return gzip.compress(content, 1, mtime=0)


# -------------------------------------------------------------------------------------------------------------- JSON


def strange_value(rng):
    """A value that nobody would write."""
    kind = int(rng.integers(3))
    return copy.deepcopy(pick(rng, (NUMBERS, TEXTS, STRANGE)[kind]))


def changed(rng, value):
    """A copy of plain data with one to three changes somewhere in it."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        value = _change(rng, value)
    return value


def _change(rng, value):
    places = list(_places(value))
    if not places or rng.random() < 0.03:
        return strange_value(rng)
    parent, key = pick(rng, places)
    how = int(rng.integers(6))
    if how <= 2:
        parent[key] = strange_value(rng)
    elif how == 3:
        del parent[key]
    elif how == 4 and isinstance(parent, dict):
        parent[str(strange_value(rng))] = parent.pop(key)
    else:
        other, from_there = pick(rng, places)
        parent[key] = copy.deepcopy(other[from_there])
    return value


def _places(value):
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def json_bytes(rng, value):
    """A changed copy of ``value`` as the bytes of a file, which may be damaged themselves."""
    how = rng.random()
    if how < 0.03:
        return b"[" * (100 * DEEP)
    if how < 0.06:
        return json.dumps({"training": value}).encode("utf-16")
    if how < 0.09:  # keys given twice, and numbers that no type holds
        return json.dumps(value).encode()[:-1] + b', "format": 1e400, "format": ' + b"9" * 5000 + b"}"
    if how < 0.25:
        return damaged(rng, json.dumps(value).encode())
    return json.dumps(changed(rng, value)).encode()


# ------------------------------------------------------------------------------------------------------ text headers


def changed_text_header(rng, content, separator):
    """An NRRD or MetaImage file with changes to the lines of its header; ``separator`` parts names and values."""
    end = content.find(b"\n\n") if separator == b":" else content.find(b"\n", content.find(b"ElementDataFile"))
    if end < 0 or rng.random() < 0.3:
        return damaged(rng, content)
    lines, rest = content[:end].split(b"\n"), content[end:]
    for _ in range(int(rng.integers(1, 4))):
        at, how = int(rng.integers(len(lines))), int(rng.integers(6))
        name, parted, value = lines[at].partition(separator)
        words = value.split()
        if how <= 2 and parted and words:
            words[int(rng.integers(len(words)))] = str(pick(rng, NUMBERS)).encode()
            lines[at] = name + parted + b" " + b" ".join(words)
        elif how == 3 and parted:
            lines[at] = name + parted + b" " + pick(rng, TEXTS).encode("utf-8", "surrogatepass")
        elif how == 4 and len(lines) > 1:
            del lines[at]
        else:
            lines.insert(at, pick(rng, lines))
    return b"\n".join(lines) + rest


# ------------------------------------------------------------------------------------------------------------- NIfTI


def changed_nifti(rng, content):
    """An uncompressed NIfTI-1 file with one to three fields of its header changed, or its bytes damaged."""
    if rng.random() < 0.3:
        return damaged(rng, content)
    header, rest = nib.Nifti1Header(content[:348], check=False), content[348:]
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, [key for key in header.keys() if key not in ("sizeof_hdr", "magic")])  # noqa: SIM118
        field = np.atleast_1d(header[name])
        if field.dtype.kind == "S":
            header[name] = pick(rng, TEXTS).encode("utf-8", "surrogatepass")[:10]
            continue
        with np.errstate(all="ignore"):
            field = field.copy()
            field[int(rng.integers(field.size))] = _fitting(pick(rng, NUMBERS), field.dtype)
            header[name] = field if np.ndim(header[name]) else field[0]
    if rng.random() < 0.1:
        header["dim"] = (3, 32767, 32767, 32767, 1, 1, 1, 1)
    block = header.binaryblock
    if rng.random() < 0.1:  # the same of the other byte order
        block = header.as_byteswapped().binaryblock
    return block + rest


def _fitting(number, dtype):
    if dtype.kind == "f":
        return number
    limits = np.iinfo(dtype)
    return min(max(int(number), limits.min), limits.max) if math.isfinite(number) else limits.max


# ------------------------------------------------------------------------------------------------------------- DICOM


def changed_dataset(rng, dataset):
    """A copy of a DICOM data set with one to three elements changed or removed."""
    dataset = copy.deepcopy(dataset)
    with quiet_dicom():
        for _ in range(int(rng.integers(1, 4))):
            _change_element(rng, dataset)
    return dataset


def _change_element(rng, dataset):
    from pydicom.dataelem import DataElement

    elements = [element for element in dataset if element.VR not in ("UI",) or rng.random() < 0.3]
    element, how = pick(rng, elements), int(rng.integers(5))
    if how == 0:
        del dataset[element.tag]
    elif element.VR == "SQ":
        dataset[element.tag].value = [] if how == 1 else [*element.value, *element.value]
    elif element.keyword == "PixelData":
        dataset.PixelData = damaged(rng, element.value)
    elif element.VR in ("US", "SS", "UL", "SL"):
        dataset[element.tag].value = int(rng.integers(0, 65536)) if how < 3 else pick(rng, (0, 1, 65535))
    else:
        text = str(pick(rng, NUMBERS)) if rng.random() < 0.6 else pick(rng, TEXTS)[:60]
        parts = max(1, len(element.value)) if element.VR in ("DS", "IS") and element.VM > 1 else 1
        dataset[element.tag] = DataElement(element.tag, "LO", "\\".join([text.replace("\ud800", "?")] * parts))
