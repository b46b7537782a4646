import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.volumes.io import from_ras
from medsam_adapt.inference.inferer import SlicewiseInferer, SlicewiseSegmenter
from medsam_adapt.inference.predictor import Predictor
from medsam_adapt.networks import Segmenter, build_sam
from medsam_adapt.runs.record import RunRecord
from medsam_adapt.weights.backbones import PIXEL_MEAN
from tests.data.slices.test_geometry import affine_of
from tests.data.volumes.test_io import ORIENTATIONS
from tests.slicing import slicing_of

SHAPE = (16, 12, 10)  # in RAS order
GREY = 60  # grey levels between classes
FULL_SIZE = {"axial": 16, "coronal": 16, "sagittal": 12}  # the image size at which slices of SHAPE keep their pixels


class Oracle(nn.Module):
    """Stands for a segmenter that reads the class from the grey level, or draws exactly the prompt it is given."""

    def __init__(self, image_size, head="exclusive", num_classes=3):
        super().__init__()
        self.image_size, self.head, self.num_classes = image_size, head, num_classes
        self.sam = nn.Module()
        self.sam.register_buffer("pixel_mean", torch.zeros(1))

    def forward(self, images):
        self.images = images
        levels = GREY * torch.arange(self.num_classes + 1).reshape(1, -1, 1, 1)
        logits = GREY / 2 - (images[:, 1:2] - levels).abs() + 0.01 * (images[:, :1] - images[:, 2:])
        return logits[:, 1:] if self.head == "overlapping" else logits

    def encode(self, images):
        return images

    def decode(self, embedding, boxes=None, points=None):
        rows, columns = torch.meshgrid(*2 * [torch.arange(self.image_size)], indexing="ij")
        drawn = boxes if boxes is not None else points[:, 0, [0, 1, 0, 1]]
        x0, y0, x1, y1 = drawn.T[..., None, None]
        inside = (x0 <= columns) & (columns <= x1) & (y0 <= rows) & (rows <= y1)
        prediction = nn.Module()
        prediction.logits = torch.where(inside, 1.0, -1.0)[:, None]
        return prediction


def volume_of(label, affine=None):
    """The image (1, 1, X, Y, Z) in which the oracle sees this label."""
    return MetaTensor(torch.from_numpy(label * float(GREY))[None, None].float(), affine=affine)


@pytest.fixture(scope="module")
def label():
    return np.random.default_rng(0).integers(0, 4, SHAPE)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return Segmenter(build_sam("vit_nano", 32, 2)).eval()


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 1, 20, 18, 7, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("axis", FULL_SIZE)
@pytest.mark.parametrize("channels", ["repeat", "adjacent"])
def test_the_batch_size_changes_nothing(label, axis, channels):
    for output in ("labels", "logits"):
        one, *others = (
            SlicewiseInferer(slicing_of(axis, channels, num_classes=3), batch_size=size, output=output)(
                volume_of(label), Oracle(16)
            )
            for size in (1, 5, 16)
        )
        assert all(torch.equal(other, one) for other in others)


def test_the_batch_size_changes_a_networks_logits_by_rounding_alone(segmenter, image):
    one, many = (
        SlicewiseInferer(slicing_of(num_classes=2), batch_size=size, output="logits")(image[:1], segmenter)
        for size in (1, 16)
    )
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4)
    assert one.std() > 0.01


def test_labels_are_the_argmax_of_the_logits(segmenter, image):
    labels, logits = (
        SlicewiseInferer(slicing_of(num_classes=2), output=output)(image[:1], segmenter)
        for output in ("labels", "logits")
    )
    assert (labels.shape, logits.shape) == ((1, 1, 20, 18, 7), (1, 3, 20, 18, 7))
    assert (labels.dtype, logits.dtype) == (torch.uint8, torch.float32)
    assert torch.equal(labels, logits.argmax(dim=1, keepdim=True))
    assert not logits.requires_grad


@pytest.mark.parametrize("axis", FULL_SIZE)
def test_the_result_lies_where_the_volume_lies(label, axis):
    affine = torch.from_numpy(affine_of("RAS", (1, 1, 1)))
    result = SlicewiseInferer(slicing_of(axis, num_classes=3))(volume_of(label, affine), Oracle(FULL_SIZE[axis]))
    assert torch.equal(result.affine, affine)
    assert result.dtype == torch.uint8
    np.testing.assert_array_equal(result[0, 0], label)


@pytest.mark.parametrize("output", ["labels", "logits"])
def test_an_absent_class_is_never_emitted(label, output):
    inferer = SlicewiseInferer(slicing_of(num_classes=3, absent=[2]), output=output)
    result = inferer(volume_of(label), Oracle(16))
    emitted = result if output == "labels" else result.argmax(dim=1)
    assert set(np.unique(emitted)) == {0, 1, 3}
    assert output == "labels" or not result.half().softmax(dim=1)[:, 2].any()
    kept = np.isin(label, (0, 1, 3))
    np.testing.assert_array_equal(np.asarray(emitted).reshape(SHAPE)[kept], label[kept])


def test_overlapping_classes_are_masks(label):
    result = SlicewiseInferer(slicing_of(num_classes=3, absent=[2]))(volume_of(label), Oracle(16, "overlapping"))
    assert (result.shape, result.dtype) == ((1, 3, *SHAPE), torch.uint8)
    for number in (1, 3):
        np.testing.assert_array_equal(result[0, number - 1], label == number)
    assert not result[0, 1].any()


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_a_prompted_run_needs_a_reference_and_says_so(label, prompt):
    sentence = f"{prompt} prompts: this run was trained with them and cannot segment without"
    with pytest.raises(InputError, match=sentence):
        SlicewiseInferer(slicing_of(prompt=prompt, num_classes=3))(volume_of(label), Oracle(16, "structure"))


@pytest.mark.parametrize("axis", FULL_SIZE)
def test_each_structure_is_prompted_on_its_own_slices(axis):
    boxes = np.zeros(SHAPE, np.int64)
    boxes[1:6, 2:9, 3:7] = 2
    boxes[8:15, 1:4, 0:10] = 3
    reference = torch.from_numpy(boxes)[None, None]
    oracle = Oracle(FULL_SIZE[axis], "structure")
    drawn = {
        prompt: SlicewiseInferer(slicing_of(axis, prompt=prompt, num_classes=3), batch_size=4)(
            volume_of(boxes * 0), oracle, reference=reference
        )[0, 0].numpy()
        for prompt in ("box", "points")
    }
    np.testing.assert_array_equal(drawn["box"], boxes)
    points = drawn["points"]
    np.testing.assert_array_equal(points[points > 0], boxes[points > 0])
    slices = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[axis]
    for structure in (2, 3):  # one point a slice
        assert set((points == structure).sum(axis=slices)) <= {0, 1}
        np.testing.assert_array_equal((points == structure).any(axis=slices), (boxes == structure).any(axis=slices))


def test_a_prompted_run_without_the_structure_gives_background():
    empty = torch.zeros(1, 1, *SHAPE)
    result = SlicewiseInferer(slicing_of(prompt="box", num_classes=3))(
        empty, Oracle(16, "structure"), reference=empty.long()
    )
    assert not result.any()


def test_a_wrapped_network_is_unwrapped(label):
    wrapped = nn.Module()
    wrapped.module = Oracle(16)
    np.testing.assert_array_equal(SlicewiseInferer(slicing_of(num_classes=3))(volume_of(label), wrapped)[0, 0], label)


def test_a_3d_network_segments_each_volume_of_a_batch(segmenter, image):
    network = SlicewiseSegmenter(segmenter, slicing_of(num_classes=2, absent=[1]))
    with torch.no_grad():
        logits = network(image)
    assert logits.shape == (2, 3, 20, 18, 7)
    for volume, result in zip(image, logits, strict=True):
        alone = SlicewiseInferer(slicing_of(num_classes=2, absent=[1]), output="logits")(volume[None], segmenter)
        torch.testing.assert_close(result, alone[0])


def test_a_3d_network_has_the_weights_of_its_segmenter(segmenter):
    torch.manual_seed(1)
    network = SlicewiseSegmenter(Segmenter(build_sam("vit_nano", 32, 2)), slicing_of())
    network.load_state_dict(segmenter.state_dict())
    assert network.state_dict().keys() == segmenter.state_dict().keys()
    for name, tensor in network.segmenter.state_dict().items():
        assert torch.equal(tensor, segmenter.state_dict()[name])


def predictor_of(axis, image_size, label_ids=(1, 2, 3), absent=()):
    names = ["liver", "spleen", "aorta"]
    record = RunRecord.model_construct(
        axis=axis, channels="adjacent", prompt="none", class_names=names, label_ids=list(label_ids),
        absent=list(absent), policy=IntensityPolicy(kind="window", low=0, high=255),
    )  # fmt: skip
    return Predictor(record, Oracle(image_size), batch_size=4)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("axis", FULL_SIZE)
def test_a_prediction_goes_round_in_each_orientation(label, codes, axis):
    affine = affine_of(codes, (1, 1, 1))
    stored = from_ras(label, affine)
    predicted = predictor_of(axis, FULL_SIZE[axis])(GREY * stored, affine)
    assert predicted.dtype == np.uint8
    np.testing.assert_array_equal(predicted, stored)


@pytest.mark.parametrize("axis", FULL_SIZE)
@pytest.mark.parametrize("codes", ["LPS", "SPL", "AIR"])
def test_a_prediction_on_enlarged_oblique_slices_is_right_but_for_borders(axis, codes):
    shape, spacing = (22, 30, 40), (2.5, 1.6, 1.0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    stored = (np.square(grid - np.reshape((0.2, -0.1, 0.3), (3, 1, 1, 1))).sum(axis=0) < 0.4).astype(int)
    predicted = predictor_of(axis, 96)(GREY * stored, affine_of(codes, spacing))
    assert predicted.shape == shape
    assert 2 * (predicted & stored).sum() / (predicted.sum() + stored.sum()) > 0.99


@pytest.mark.parametrize("codes", ["RAS", "ASL"])
def test_slices_are_fitted_by_their_size_in_mm(codes):
    predictor = predictor_of("axial", 96)
    affine = affine_of(codes, {"RAS": (1, 3, 2), "ASL": (3, 2, 1)}[codes])
    predictor(from_ras(np.ones(SHAPE), affine), affine)  # 16 mm wide and 36 mm deep
    padding = torch.tensor(PIXEL_MEAN)[:, None]
    assert torch.equal(predictor.segmenter.images[0, :, 0, 43:], padding.expand(3, 96 - 43))
    assert (predictor.segmenter.images[0, :, :, 42] == 1).all()


@pytest.mark.parametrize("shape", [(16, 12, 1), (16, 1, 10), (1, 12, 10)])
@pytest.mark.parametrize("codes", ["RAS", "LPI"])
@pytest.mark.parametrize("axis", FULL_SIZE)
def test_a_single_slice_in_any_direction_is_segmented(shape, codes, axis):
    assert predictor_of(axis, 32)(np.full(shape, GREY), affine_of(codes, (1, 1, 1))).tolist() == np.ones(shape).tolist()


def test_predicted_ids_are_those_of_the_training_files(label):
    predicted = predictor_of("axial", 16, label_ids=(4, 700, 9), absent=("aorta",))(GREY * label, np.eye(4))
    assert predicted.dtype == np.uint16
    for number, label_id in ((0, 0), (1, 4), (2, 700)):
        assert (predicted[label == number] == label_id).all()
    assert 9 not in predicted


def test_prediction_changes_no_input(label):
    image, affine = GREY * label, np.diag([-1.0, -1, 1, 1])
    before = image.copy()
    predictor_of("axial", 16)(image, affine)
    np.testing.assert_array_equal(image, before)
    assert nib.aff2axcodes(affine) == ("L", "P", "S")


@pytest.mark.parametrize("head", ["exclusive", "overlapping"])
def test_voxels_of_a_low_probability_are_ignored(label, head):
    slicing = slicing_of(num_classes=3, overlapping=head == "overlapping")
    plain = SlicewiseInferer(slicing)
    image = volume_of(label)
    image[0, 0, :8] += 0.49 * GREY  # nearly as likely the class above
    network = Oracle(16, head)
    certain = plain(image, network)
    for least, left_out in ((1e-9, False), (0.99, True)):
        found = plain.at_least(least, [])(image, network)
        unsure = found == 255
        assert unsure.any() == left_out
        assert torch.equal(found[~unsure], certain[~unsure])
    assert (found[0, :, 8:] != 255).all()
