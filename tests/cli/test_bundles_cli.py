import json

import pytest

from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.cli.main import main

# With one class, on ViT-B, TinyViT and SAM 2's Hiera: encoder; and other, the same on all of them.
COUNTS = {
    "adaptformer": ((322_752, 65_120, 164_832), 0),
    "blosam": ((0, 0, 0), 256),
    "decoder": ((0, 0, 0), 0),
    "detail": ((0, 0, 0), 730_050),
    "infosam": ((5_948_160, 368_800, 2_276_256), 132_608),
    "lora": ((147_456, 29_696, 69_888), 0),
    "samcobot": ((147_456 + 864, 29_696 + 640, 69_888 + 864), 0),
    "samparser": ((512, 512, 800), 0),
}
BACKBONES = ("vit_b", "lite_medsam", "sam2_hiera_tiny")


def out_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in (0, None)
    return capsys.readouterr().out


def test_the_list_is_the_folders(capsys):
    rows = json.loads(out_of(capsys, "bundles", "list", "--json"))
    assert [row["bundle"] for row in rows] == bundle_names()
    text = out_of(capsys, "bundles", "list")
    assert all(name in text for name in bundle_names())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("bundle", bundle_names())
def test_the_counts_are_exact(capsys, bundle, backbone):
    facts = json.loads(out_of(capsys, "bundles", "show", bundle, "--backbone", backbone, "--json"))
    counts = facts["trainable"]
    encoder, other = COUNTS[bundle]
    assert (counts["encoder"], counts["other"]) == (encoder[BACKBONES.index(backbone)], other)
    assert counts["total"] == counts["encoder"] + counts["decoder"] + counts["other"]
    assert facts["share"] == counts["total"] / facts["sam_parameters"]


@pytest.mark.parametrize("bundle", bundle_names())
def test_the_text_names_settings_and_counts(capsys, bundle):
    text = out_of(capsys, "bundles", "show", bundle, "--backbone", "vit_nano", "--classes", "3")
    assert "learning_rate" in text
    assert "trainable with vit_nano and 3 classes" in text
    assert "released code" in text
    assert "arXiv" in text or bundle in text
