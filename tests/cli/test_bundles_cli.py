import json

import pytest

from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.cli.main import main

# On ViT-B with one class: encoder, and other.
COUNTS = {
    "adaptformer": (322_752, 0),
    "blosam": (0, 256),
    "decoder": (0, 0),
    "detail": (0, 730_050),
    "infosam": (5_948_160, 132_608),
    "lora": (147_456, 0),
    "samcobot": (147_456 + 864, 0),
    "samparser": (512, 0),
}


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


@pytest.mark.parametrize("bundle", bundle_names())
def test_the_counts_are_exact(capsys, bundle):
    facts = json.loads(out_of(capsys, "bundles", "show", bundle, "--json"))
    counts = facts["trainable"]
    assert (counts["encoder"], counts["other"]) == COUNTS[bundle]
    assert counts["total"] == counts["encoder"] + counts["decoder"] + counts["other"]
    assert facts["share"] == counts["total"] / facts["sam_parameters"]


@pytest.mark.parametrize("bundle", bundle_names())
def test_the_text_names_settings_and_counts(capsys, bundle):
    text = out_of(capsys, "bundles", "show", bundle, "--backbone", "vit_nano", "--classes", "3")
    assert "learning_rate" in text
    assert "trainable with vit_nano and 3 classes" in text
    assert "released code" in text
    assert "arXiv" in text or bundle in text
