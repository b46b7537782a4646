import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l

from medsam_adapt.core.errors import InputError
from medsam_adapt.networks import build_sam
from medsam_adapt.networks.sam import weights_sha256
from medsam_adapt.weights.backbones import VARIANTS
from tests.small_networks import register_official


@pytest.fixture(scope="module")
def official():
    """A small SAM of segment-anything with random weights, position tables included (they are zeros when new)."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        sam = register_official(patch)
    for name, tensor in sam.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    return sam


@pytest.fixture(scope="module")
def official_file(official, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "sam_vit_b.pth"
    torch.save(official.state_dict(), path)
    return path


@pytest.fixture
def checkpoint(official_file, monkeypatch):
    """Its file, while ``vit_b`` is of its sizes."""
    register_official(monkeypatch)
    return official_file


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    sam = build_sam("vit_nano")
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save_file(sam.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "build"), [("vit_b", build_sam_vit_b), ("vit_l", build_sam_vit_l), ("vit_h", build_sam_vit_h)]
)
def test_names_and_shapes_are_those_of_the_official_sams(name, build):
    with torch.device("meta"):
        expected, found = build().state_dict(), build_sam(name, 1024, checkpoint="random").state_dict()
    assert {key: tensor.shape for key, tensor in found.items()} == {k: tensor.shape for k, tensor in expected.items()}


def test_at_1024_pixels_ours_is_the_official_sam(official, checkpoint):
    """All of its weights, and what it makes of them."""
    ours = build_sam("vit_b", 1024, checkpoint=checkpoint)
    expected, found = official.state_dict(), ours.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    image = torch.rand(3, 700, 1024, generator=torch.Generator().manual_seed(0)) * 255
    record = {"image": image, "original_size": (350, 512), "boxes": torch.tensor([[100.0, 50.0, 400.0, 300.0]])}
    outputs = [sam([record], multimask_output=True)[0]["low_res_logits"] for sam in (official, ours)]
    torch.testing.assert_close(*outputs)


def test_a_1024_checkpoint_is_interpolated_to_256_pixels(official, checkpoint):
    sam, source = build_sam("vit_b", 256, checkpoint=checkpoint), official.state_dict()
    grid = source["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (16, 16), mode="bicubic", align_corners=False, antialias=False)
    torch.testing.assert_close(sam.image_encoder.pos_embed, expected.permute(0, 2, 3, 1))
    for index, block in enumerate(sam.image_encoder.blocks):
        table = source[f"image_encoder.blocks.{index}.attn.rel_pos_h"]
        if index in VARIANTS["vit_b"].global_attention:
            assert len(block.attn.rel_pos_h) == 31
            table = F.interpolate(table.T[None], 31, mode="linear", align_corners=False)[0].T
        torch.testing.assert_close(block.attn.rel_pos_h.data, table)


def test_classes_have_tokens_of_their_own_and_the_first_hypernetwork(official, checkpoint):
    sam = build_sam("vit_b", 256, num_classes=5, checkpoint=checkpoint)
    tokens = sam.mask_decoder.mask_tokens.weight
    again = build_sam("vit_b", 256, num_classes=5, checkpoint=checkpoint).mask_decoder.mask_tokens.weight
    assert torch.equal(tokens, again)
    lengths = tokens.norm(dim=1) / official.mask_decoder.mask_tokens.weight[0].norm()
    assert len(tokens) == 6
    assert ((lengths > 0.8) & (lengths < 1.2)).all()
    cosines = torch.corrcoef(tokens) - torch.eye(6)
    assert cosines.abs().max() < 0.3
    first = official.mask_decoder.output_hypernetworks_mlps[0].state_dict()
    first = {name: tensor * (0.1 if name.startswith("layers.2.") else 1) for name, tensor in first.items()}
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:
        torch.testing.assert_close(mlp.state_dict(), first, rtol=0, atol=0)


@pytest.mark.parametrize("nest", ["model", "state_dict"])
def test_training_files_that_nest_the_weights_load(small_checkpoint, tmp_path, nest):
    weights = build_sam("vit_nano", checkpoint=small_checkpoint).state_dict()
    torch.save({nest: {f"module.{name}": tensor for name, tensor in weights.items()}, "epoch": 3}, tmp_path / "a.pth")
    sam = build_sam("vit_nano", checkpoint=tmp_path / "a.pth")
    assert weights_sha256(sam) == weights_sha256(build_sam("vit_nano", checkpoint=small_checkpoint))


@pytest.mark.parametrize("image_size", [32, 48, 112, 256])
@pytest.mark.parametrize(("num_classes", "exclusive", "tokens"), [(None, True, 4), (3, True, 4), (3, False, 3)])
def test_nano_is_built_at_any_size(small_checkpoint, image_size, num_classes, exclusive, tokens):
    sam = build_sam("vit_nano", image_size, num_classes, small_checkpoint, exclusive)
    assert sam.mask_decoder.num_mask_tokens == tokens
    assert sam.image_encoder(torch.zeros(1, 3, image_size, image_size)).shape[-1] == image_size // 8


def test_nano_is_small():
    sam = build_sam("vit_nano")
    assert sum(parameter.numel() for parameter in sam.parameters()) < 4e6
    assert sam.prompt_encoder.embed_dim < 256


class Trap:
    def __reduce__(self):
        return (print, ("the checkpoint ran code",))


def _bad_checkpoints(folder, nano):
    torch.save({"weights": Trap()}, folder / "trap.pth")
    torch.save({"something.else": torch.zeros(2)}, folder / "foreign.pth")
    torch.save([torch.zeros(2)], folder / "list.pth")
    (folder / "empty.pth").touch()
    (folder / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    torch.save({k: v for k, v in nano.items() if "neck.0" not in k}, folder / "missing.pth")
    torch.save({**nano, "mask_decoder.extra": torch.zeros(1)}, folder / "extra.pth")
    torch.save({**nano, "image_encoder.neck.0.weight": torch.zeros(7, 7)}, folder / "shape.pth")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.pth", "does not exist"),
        ("trap.pth", "more than weights"),
        ("foreign.pth", "no tensor named as in SAM"),
        ("list.pth", "no named weights"),
        ("empty.pth", "cannot be read"),
        ("half.safetensors", "cannot be read"),
        ("missing.pth", r"1 missing \(image_encoder.neck.0.weight\)"),
        ("extra.pth", r"1 unexpected \(mask_decoder.extra\)"),
        ("shape.pth", r"1 mis-shaped \(image_encoder.neck.0.weight \(7, 7\) instead of"),
    ],
)
def test_a_bad_checkpoint_is_told_in_a_sentence(small_checkpoint, tmp_path, capsys, name, sentence):
    _bad_checkpoints(tmp_path, build_sam("vit_nano", checkpoint=small_checkpoint).state_dict())
    with pytest.raises(InputError, match=sentence) as caught:
        build_sam("vit_nano", checkpoint=tmp_path / name)
    assert name in str(caught.value)
    assert "ran code" not in capsys.readouterr().out


def test_a_checkpoint_of_another_variant_is_refused(checkpoint):
    with pytest.raises(InputError, match=r"holds vit_b weights but the backbone is vit_nano\. Use --backbone vit_b"):
        build_sam("vit_nano", checkpoint=checkpoint)


@pytest.mark.parametrize(("size", "fix"), [(100, "Use 96 or 112"), (0, "Use 16 or 32"), (-16, "Use 16 or 32")])
def test_an_odd_image_size_is_refused(size, fix):
    with pytest.raises(InputError, match=fix):
        build_sam("vit_nano", size)


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="vit_nano, vit_b, vit_l, vit_h"):
        build_sam("vit_xl")
