"""Pictures and masks are read as a viewer shows them."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.survey import survey
from medsam_adapt.data.volumes import io
from tests.slicing import training_data

SIZE = (48, 64)
INSIDE = np.zeros(SIZE, bool)
INSIDE[10:20, 40:60] = True
SHOWN = np.where(INSIDE, 200, 20).astype(np.uint8)
COLOURS = np.where(INSIDE[..., None], (200, 60, 40), (30, 50, 120)).astype(np.uint8)
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def save(path, picture, orientation=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if orientation:
        exif = picture.getexif()
        exif[0x0112] = orientation
        options["exif"] = exif
    picture.save(path, **options)
    return path


def palette(numbers, colours):
    picture = Image.fromarray(numbers.astype(np.uint8), "L")
    picture.putpalette(colours)
    return picture


def read(path):
    """(rows, columns, ...) of the one slice."""
    return io.read_volume(path)[0][:, :, 0].swapaxes(0, 1)


def mask(path):
    return io.read_label(path)[0][:, :, 0].swapaxes(0, 1)


def stored_as(orientation, array):
    """What a camera stores so that a viewer shows ``array``."""
    for turn in (
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a.swapaxes(0, 1),
        lambda a: a.swapaxes(0, 1)[::-1],
        lambda a: a.swapaxes(0, 1)[:, ::-1],
        lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    ):
        stored = Image.fromarray(np.ascontiguousarray(turn(array)))
        stored.getexif()[0x0112] = orientation
        if np.array_equal(np.asarray(ImageOps.exif_transpose(stored)), array):
            return np.ascontiguousarray(turn(array))
    raise AssertionError(orientation)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_that_was_turned(tmp_path, suffix, orientation):
    options = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    path = save(tmp_path / f"a.{suffix}", stored_as(orientation, COLOURS), orientation, **options)
    assert io.read_header(path).shape == (SIZE[1], SIZE[0], 1)
    np.testing.assert_allclose(read(path), COLOURS, atol=0 if suffix == "png" else 12)
    drawn = save(tmp_path / "mask.png", stored_as(orientation, INSIDE.astype(np.uint8)), orientation)
    np.testing.assert_array_equal(mask(drawn), INSIDE)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01", b"noise"]
)
def test_damaged_exif_does_not_hide_the_picture(tmp_path, exif):
    Image.fromarray(SHOWN).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif, quality=98)
    np.testing.assert_allclose(read(tmp_path / "a.jpg"), SHOWN, atol=12)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_there_is_not_changes_nothing(tmp_path, orientation):
    np.testing.assert_array_equal(read(save(tmp_path / "a.png", SHOWN, orientation)), SHOWN)


def _with_long_data(content):
    """Pillow would set 4 GiB aside."""
    at = content.index(b"IDAT")
    return content[: at - 4] + (2**32 - 1).to_bytes(4, "big") + content[at:]


def _with_short_header(content):
    """Pillow raises ValueError."""
    at = content.index(b"IHDR")
    return content[: at - 4] + (5).to_bytes(4, "big") + content[at : at + 9] + content[at + 17 :]


@pytest.mark.parametrize(
    ("damage", "words"), [(_with_long_data, "claims 4,294,967,336 bytes"), (_with_short_header, "Truncated IHDR")]
)
def test_a_png_whose_chunks_claim_another_length(tmp_path, damage, words):
    path = save(tmp_path / "a.png", SHOWN)
    path.write_bytes(damage(path.read_bytes()))
    for read_it in (io.read_header, io.read_volume, io.read_label):
        with pytest.raises(InputError, match=f"a.png: .*{words}"):
            read_it(path)


def _cmyk():
    return Image.fromarray(COLOURS).convert("CMYK")


@pytest.mark.parametrize(
    ("picture", "shown"),
    [
        (SHOWN, SHOWN),
        (SHOWN.astype(np.uint16) * 257, SHOWN),
        (Image.fromarray(INSIDE), INSIDE * 255),
        (palette(INSIDE, [0, 0, 255, 255, 255, 255]), np.where(INSIDE[..., None], (255, 255, 255), (0, 0, 255))),
        (Image.fromarray(np.dstack([SHOWN, np.where(INSIDE, 255, 0).astype(np.uint8)])), np.where(INSIDE, 200, 0)),
        (np.dstack([COLOURS, np.where(INSIDE, 255, 0).astype(np.uint8)]), np.where(INSIDE[..., None], COLOURS, 0)),
        (COLOURS, COLOURS),
    ],
    ids=["8 bits", "16 bits", "1 bit", "palette", "grey and alpha", "colour and alpha", "colour"],
)
def test_every_kind_of_png_is_as_shown(tmp_path, picture, shown):
    np.testing.assert_allclose(read(save(tmp_path / "a.png", picture)), shown, atol=1e-4)


def test_a_transparent_palette_entry_is_black(tmp_path):
    path = save(tmp_path / "a.png", palette(INSIDE, [255, 0, 0, 0, 255, 0]), transparency=0)
    np.testing.assert_array_equal(read(path), np.where(INSIDE[..., None], (0, 255, 0), (0, 0, 0)))


def test_cmyk_is_shown_as_colour(tmp_path):
    path = save(tmp_path / "a.jpg", _cmyk(), quality=98)
    np.testing.assert_allclose(read(path), np.asarray(Image.open(path).convert("RGB")), atol=0)
    assert np.abs(read(path) - COLOURS).mean() < 6


@pytest.mark.parametrize(
    ("picture", "numbers"),
    [
        (INSIDE.astype(np.uint8) * 2, INSIDE * 2),
        (INSIDE.astype(np.uint16) * 2, INSIDE * 2),
        (INSIDE.astype(np.uint16) * 65535, INSIDE * 255),
        (Image.fromarray(INSIDE), INSIDE),
        (palette(INSIDE * 2, VOC), INSIDE * 2),
        (palette(~INSIDE, [255, 255, 255, 0, 0, 0]), INSIDE * 255),
        (palette(INSIDE * 255, [*range(256)] * 3), INSIDE * 255),
        (np.dstack([INSIDE.astype(np.uint8) * 255] * 3), INSIDE * 255),
        (np.dstack([np.full(SIZE, 255, np.uint8), INSIDE.astype(np.uint8) * 255]), INSIDE * 255),
        (np.dstack([*[np.full(SIZE, 255, np.uint8)] * 3, INSIDE.astype(np.uint8) * 255]), INSIDE * 255),
    ],
    ids=["8", "16", "16 white", "1 bit", "VOC palette", "white first", "grey palette", "RGB", "LA", "RGBA"],
)
def test_every_kind_of_mask_gives_its_numbers(tmp_path, picture, numbers):
    np.testing.assert_array_equal(mask(save(tmp_path / "a.png", picture)), numbers)


def test_a_mask_in_real_colours_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"is in colour, and a label is one number per pixel\. Save it in grey levels\."
    ):
        io.read_label(save(tmp_path / "a.png", COLOURS))


# ----------------------------------------------------------------------------------------------------------- data sets


def data_set(root, pictures, masks, classes=None):
    for number, (picture, drawn) in enumerate(zip(pictures, masks, strict=True)):
        save(root / f"images/{number}.png", picture)
        save(root / f"masks/{number}.png", drawn)
    if classes:
        (root / "labels.json").write_text(json.dumps(classes))
    return root


def test_a_data_set_may_mix_them_all(tmp_path):
    pictures = [SHOWN, COLOURS, SHOWN.astype(np.uint16) * 257, _palette_picture(), Image.fromarray(INSIDE)]
    masks = [INSIDE.astype(np.uint8), Image.fromarray(INSIDE), INSIDE.astype(np.uint16) * 65535]
    masks += [palette(INSIDE, VOC), palette(~INSIDE, [255, 255, 255, 0, 0, 0])]
    root = data_set(tmp_path / "data", pictures, masks)
    seen = survey(root)
    assert seen.problems == ()
    assert {count[1] for count in seen.check.voxels.values()} == {INSIDE.sum()}
    data = training_data(root, image_size=64, cache_dir=tmp_path / "cache", held_out=0, augment="none")
    assert data.policy.high == 255
    for sample in data.dataset("train"):
        assert sample["image"].shape == (3, 64, 64)
        assert int(sample["label"].sum()) == INSIDE.sum()


def _palette_picture():
    return Image.fromarray(COLOURS).quantize(4)


def test_several_classes_from_palettes(tmp_path):
    numbers = INSIDE.astype(np.uint8)
    numbers[30:40, 5:20] = 2
    root = data_set(tmp_path, [COLOURS] * 2, [palette(numbers, VOC), numbers], {"1": "polyp", "2": "tool"})
    seen = survey(root)
    assert seen.problems == ()
    assert seen.check.voxels["0"] == seen.check.voxels["1"] == {1: 200, 2: 150}


def test_12_bits_in_16_are_trained_on_by_percentiles(tmp_path):
    dark = (np.random.default_rng(0).integers(300, 600, SIZE) + 3000 * INSIDE).astype(np.uint16)
    root = data_set(tmp_path / "data", [dark] * 3, [INSIDE.astype(np.uint8) * 255] * 3)
    data = training_data(root, image_size=64, cache_dir=tmp_path / "cache")
    grey = data.policy.apply(io.read_volume(root / "images/0.png")[0])[:, :, 0].swapaxes(0, 1)
    assert grey[INSIDE].mean() - grey[~INSIDE].mean() > 200
    chosen = training_data(root, image_size=64, cache_dir=tmp_path / "cache", intensity="picture")
    assert (chosen.policy.kind, chosen.policy.high) == ("window", 255)
