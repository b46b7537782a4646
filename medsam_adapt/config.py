"""The settings of a run: their names, types, bounds and help, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.intensity_rules import checked_setting

Axis = Literal["axial", "coronal", "sagittal"]
AxisChoice = Literal["auto", "axial", "coronal", "sagittal"]
Channels = Literal["repeat", "adjacent"]
ChannelChoice = Literal["auto", "repeat", "adjacent"]
PlaneChoice = Literal["auto", "one", "three"]
Tiles = Literal["off", "auto"]
CoordinateChoice = Literal["off", "on", "auto"]
PromptMode = Literal["none", "box", "points"]
Augmentation = Literal["none", "anatomical", "strong", "free"]
Sampling = Literal["balanced", "slices"]
Precision = Literal["auto", "fp32", "bf16"]
Switch = Literal["auto", "on", "off"]
InputScaling = Literal["sam", "unit"]
Backbone = Literal[
    "vit_nano", "vit_b", "vit_l", "vit_h", "lite_medsam", "mobile_sam", "sam2_hiera_tiny", "sam2_hiera_base_plus"
]
BackboneChoice = Literal[
    "auto",
    "vit_nano",
    "vit_b",
    "vit_l",
    "vit_h",
    "lite_medsam",
    "mobile_sam",
    "sam2_hiera_tiny",
    "sam2_hiera_base_plus",
]
Intensity: TypeAlias = str | list[str]  # the rules of `core.intensity_rules`
PATH_SETTINGS = (
    "cache_dir",
    "split_file",
    "from_run",
    "checkpoint",
    "unlabelled",
)  # that may contain folders of a machine


HELD_OUT, FOLDS = 0.2, 5  # share of the patients held out; of a cross-validation


class Knobs(BaseModel):
    """Settings that every bundle has, named as at the top of its ``train.json``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    layout: str = Field("auto", description="layout of the data set on disk, or auto")
    classes: list[str] | None = Field(None, min_length=1, description="classes to learn, by name; null is all")
    backbone: BackboneChoice = Field(
        "vit_nano",
        description="the SAM; auto: lite_medsam if it is installed and the training volumes are large, else vit_nano",
    )
    checkpoint: str | None = Field(
        None,
        description="SAM weights to start from: a name ('weights list'), a file, or random; null is what ships for the "
        "backbone (vit_nano), else random",
    )
    input_scaling: InputScaling | None = Field(
        None,
        description="pixel values that the weights expect: sam (0 to 255, normalised by SAM's mean and deviation) or "
        "unit (each slice from 0 to 1, as MedSAM); null is what the checkpoint was trained with",
    )
    image_size: int | None = Field(
        None,
        ge=16,
        le=4096,
        multiple_of=16,
        description="side of a slice in pixels; null is the backbone's default, or with a detail "
        "branch on a small backbone the resolution of the training volumes, from 64 to 128 (192 if backbone=auto chose "
        "lite_medsam)",
    )
    axis: AxisChoice = Field(
        "axial",
        description="slicing direction; auto: that in which the voxels of all training volumes are clearly longest, "
        "as in a sagittal acquisition of thick slices, else axial",
    )
    planes: PlaneChoice = Field(
        "one",
        description="one: slices along axis; three: axial, coronal and sagittal slices train one network, and its "
        "probabilities on all of them are averaged; auto: three, without a prompt and where the voxels of all training "
        "volumes are about as long as wide",
    )
    tiles: Tiles = Field(
        "off",
        description="auto: where all structures are small for their slices, the network sees overlapping tiles of 64 "
        "pixels instead of whole slices, without a prompt and where image_size is chosen from the volumes; off: whole "
        "slices",
    )
    coordinates: CoordinateChoice = Field(
        "off",
        description="on: the detail branch also sees where in the volume each pixel lies; auto: where it sees tiles, "
        "which look alike on the left and on the right; off: it does not",
    )
    slice_sigma: float = Field(
        0.0,
        ge=0,
        le=5,
        description="standard deviation, in slices, of a Gaussian by which predicted probabilities are averaged over "
        "neighbouring slices, without a prompt and where slices of one direction are learned; 0: none",
    )
    channels: ChannelChoice = Field(
        "repeat",
        description="SAM's colour channels: the slice repeated, or between its neighbours (adjacent); auto: adjacent, "
        "unless a case has several images",
    )
    channel_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="where a case has several images: probability with which training leaves out each of them, so that "
        "prediction may lack one",
    )
    intensity: Annotated[Intensity, AfterValidator(checked_setting)] = Field(
        "auto",
        description="what becomes black to white: auto (by modality), a name such as ct-abdomen, mr, adc or pet, "
        "LOW:HIGH, percentile:LOW:HIGH, or ct-windows:abdomen,lung,bone as colours; one for each image of a case, "
        "separated by commas",
    )
    prompt: PromptMode = Field("none", description="prompt simulated from the label in training")
    held_out: float | None = Field(
        HELD_OUT,
        ge=0,
        lt=1,
        description="share of the patients that is held out; null: a tenth, and none of fewer than ten",
    )
    empty_share: float = Field(0.1, ge=0, le=1, description="share of the slices outside the labelled range used")
    augment: Augmentation = Field(
        "anatomical",
        description="random changes of the training slices: anatomical (mild, left stays left), strong (larger, "
        "elastic, and of contrast, sharpness and illumination too), free (with mirroring and quarter turns), or none",
    )
    sampling: Sampling = Field(
        "balanced", description="order of the slices: rare classes as often as common ones, or every slice alike"
    )
    tune_encoder: bool | None = Field(
        None, description="also train the whole image encoder; null: if it is small (vit_nano) or from random weights"
    )
    low_res_loss: bool = Field(
        False, description="compare the mask decoder's small logits with a reduced label, as most papers do"
    )
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of rare classes in cross-entropy at the start, which falls to 0 at 70 % of the training: 0 "
        "weighs all pixels alike, 1 all classes",
    )
    epochs: int = Field(40, ge=1, description="passes over the training slices")
    minutes: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="time budget instead of epochs: the learning rate falls with the time used; null: none",
    )
    min_steps: int = Field(50, ge=1, description="steps an epoch has at least; few slices are then drawn repeatedly")
    max_steps: int | None = Field(None, ge=1, description="steps an epoch has at most; null: a pass over all slices")
    detail: int = Field(
        0,
        ge=0,
        le=256,
        multiple_of=8,
        description="channels of a small U-Net on the slice that refines SAM's masks; 0: none",
    )
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share that a moving average of the trained weights keeps in every step, as in 0.99; the average "
        "is what is validated and saved; 0: the weights themselves",
    )
    unlabelled: str | None = Field(
        None,
        description="folder of scans without labels; during the training the network labels them and learns from that",
    )
    unlabelled_most: int | None = Field(
        30, ge=1, description="unlabelled scans that are used, drawn at random where there are more; null: all"
    )
    unlabelled_share: float = Field(
        0.25, gt=0, lt=1, description="of the slices that are drawn, once unlabelled scans are labelled"
    )
    unlabelled_from: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="share of the training after which unlabelled scans are labelled; they are labelled again halfway "
        "from there to the end",
    )
    unlabelled_least: float = Field(
        0.7,
        ge=0,
        lt=1,
        description="probability below which a voxel that the network labels is not learned from",
    )
    batch_size: int = Field(4, ge=1, description="slices a step")
    learning_rate: float = Field(1e-3, gt=0, description="of the model's trained weights")
    weight_decay: float = Field(0.01, ge=0, description="of the model's trained weights")
    val_interval: int = Field(5, ge=1, description="epochs between validations on the held-out volumes")
    clean_up: bool = Field(
        False,
        description="choose for each class what predict does to its pieces: nothing, fragments removed, the largest "
        "kept, holes filled; by the training labels, and by the DSC on held-out patients, or else on training patients",
    )
    precision: Precision = Field(
        "auto",
        description="of the image encoder: fp32, or bf16 (faster, less exact); auto: bf16 on a GPU, unless the encoder "
        "is trained whole, and with a detail branch on a CPU with AMX, else fp32",
    )
    low_memory: bool = Field(
        False, description="compute the image encoder's inside again for the gradient: less memory, more time"
    )
    slices_at_once: int | None = Field(
        None,
        ge=1,
        description="slices of a batch that go through the network together; fewer take less memory and one more pass "
        "forward, and the step is that of the whole batch all the same (but for the random numbers of AdaptFormer's "
        "dropout); null: all",
    )
    compile: bool = Field(
        False, description="compile the network's training step: a minute or more at the start, then faster steps"
    )
    kernels: bool = Field(
        True,
        description="faster layers in the image encoder, the same results but for rounding; false, or "
        "MEDSAM_ADAPT_KERNELS=0 in the environment: segment-anything's own",
    )
    num_workers: int = Field(0, ge=0, description="processes that prepare slices")
    save_minutes: float = Field(
        10.0, ge=0, description="minutes between checkpoints within an epoch; there is one after every epoch as well"
    )
    cache_dir: str | None = Field(None, description="folder of the slice cache; null is below MEDSAM_ADAPT_HOME")
    cache_frozen: Switch = Field(
        "auto",
        description="keep what frozen layers make of the slices instead of computing it in every step; auto: where "
        "that changes nothing, or saves most of the work",
    )
    cached_views: int = Field(
        8,
        ge=0,
        description="augmented views of each slice that cache_frozen keeps, of which every draw takes one; 0: what an "
        "encoder that is frozen as a whole makes of the unchanged slice, moved as the augmentation moves the slice",
    )
    cache_dtype: Literal["float32", "float16"] = Field(
        "float32", description="of what cache_frozen keeps; float16 is half as large and less exact (2e-4)"
    )
    cache_place: Literal["auto", "files", "memory", "gpu"] = Field(
        "auto", description="where cache_frozen keeps it; auto: a GPU that has room, else files, else memory"
    )
    split_file: str | None = Field(None, description="a saved splits.json to use; null draws a new split")
    fold: int | None = Field(None, ge=0, description="fold held out in a cross-validation, from 0; null is none")
    folds: int = Field(FOLDS, ge=2, description="folds that are drawn where split_file gives none")
    from_run: str | None = Field(None, description="a run to start from: its weights, classes and intensities are kept")
    seed: int = Field(0, ge=0, lt=2**31, description="random seed")


_OPTIONAL_KNOBS: dict[str, tuple[Any, Any]] = {  # shared by several bundles, which name them under ``shared_knobs``
    "schedule_power": (
        float,
        Field(0.9, ge=0, description="of the polynomial decay of the learning rate; 0 keeps it constant"),
    ),
}


def extended_knobs(bundle: str, extra: Mapping[str, Mapping[str, Any]], shared: Iterable[str] = ()) -> type[Knobs]:
    """The settings of one bundle: those that all have and those that its ``metadata.json`` adds.

    Args:
        bundle: its name.
        extra: name -> ``{"type": "int" | "float" | "bool" | "str", "choices": [...], "ge": …, "null": true,
            "description": …}``.
        shared: names of settings that it shares with some other bundles.
    """
    types: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
    fields: dict[str, Any] = {name: _OPTIONAL_KNOBS[name] for name in shared}
    for name, spec in extra.items():
        kind = Literal[tuple(spec["choices"])] if "choices" in spec else types[spec["type"]]
        bounds = {key: spec[key] for key in ("ge", "gt", "le", "lt") if key in spec}
        if spec.get("null"):
            kind = kind | None
        fields[name] = (kind, Field(..., description=spec["description"], **bounds))
    return create_model(f"{bundle}_knobs", __base__=Knobs, **fields)


def checked_precision(name: str) -> Precision:
    """``name`` as a precision; raises InputError when there is none of that name."""
    found = next((known for known in get_args(Precision) if known == name), None)
    if found is None:
        raise InputError(f"--precision {name}: there is no such precision. Use {', '.join(get_args(Precision))}.")
    return found


def refuse_code(value: Any, where: str) -> None:
    """Refuse text that MONAI's config parser would take for code, a reference or a macro, however deep it lies.

    Raises:
        InputError: for text that begins with $, @ or %.
    """
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        raise InputError(f"{where}: {value!r} is refused, since MONAI would run or replace it. Begin with a letter.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_code(key, where)
            refuse_code(item, where)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_code(item, where)
