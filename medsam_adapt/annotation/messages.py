"""What the page sends to the server, checked before anything is done with it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medsam_adapt.config import Axis
from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.data.volumes.image_set import MOST_IMAGES

_FARTHEST = 1e5  # pixels
Coordinate = Annotated[float, Field(ge=-_FARTHEST, le=_FARTHEST, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0, le=100_000)]
ImageNumber = Annotated[int, Field(ge=0, lt=MOST_IMAGES)]
ClassId = Annotated[int, Field(ge=1, le=255)]
Runs = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(max_length=2**22)]


class Message(BaseModel):
    """A message of the page; one with anything else in it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(Message):
    """A slice. Rows and columns are those of `volume_to_slices`."""

    axis: Axis
    index: Index


class Look(Place):
    """A slice of the image that is shown, where a case has several."""

    image: ImageNumber = 0


class PointedAt(Message):
    """A box and points on a slice, in pixels of the slice; whole numbers are centres of pixels."""

    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    points: Annotated[list[tuple[Coordinate, Coordinate, bool]], Field(max_length=200)] = []

    @model_validator(mode="after")
    def _points_at_something(self) -> PointedAt:
        if self.box is None and not self.points:
            raise ValueError("give a box, or points")
        return self

    def prompt(self, shape: tuple[int, ...]) -> SlicePrompt:
        """What the model takes, inside a slice of this shape (rows, columns); raises ValueError outside it."""
        rows, columns = shape
        box = None
        if self.box is not None:
            x0, x1 = sorted(min(max(x, 0.0), columns - 1.0) for x in self.box[::2])
            y0, y1 = sorted(min(max(y, 0.0), rows - 1.0) for y in self.box[1::2])
            box = (x0, y0, x1, y1)
        if any(not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5) for x, y, _ in self.points):
            raise ValueError("a point lies outside the slice")
        return SlicePrompt(box, tuple((x, y, inside) for x, y, inside in self.points))


class ProposalRequest(Look, PointedAt):
    """A mask is wanted of what the prompt shows."""


class DrawnPrompt(PointedAt):
    """The prompt that a person drew for a class on a slice."""

    label: ClassId
    index: Index


class DrawnSlice(Message):
    """A whole slice of class ids as run lengths."""

    index: Index
    runs: Runs


class Changes(Message):
    """Slices that replace those of the label.

    Attributes:
        version: of the label that the page changed: changes to an older one are refused.
        author: who drew the voxels that are different now.
        step: changes of the same number are undone together.
    """

    axis: Axis
    version: Annotated[int, Field(ge=0)]
    author: Literal["person", "model", "interpolation"]
    step: Annotated[int, Field(ge=0, le=2**53)]
    slices: Annotated[list[DrawnSlice], Field(min_length=1, max_length=10_000)]
    prompts: Annotated[list[DrawnPrompt], Field(max_length=1000)] = []


class Structure(Message):
    """A class in one plane of the image that is shown, and the slices that may be drawn on; all when None."""

    axis: Axis
    label: ClassId
    image: ImageNumber = 0
    first: Index | None = None
    last: Index | None = None


class WholeScan(Message):
    """A label of the whole scan is wanted.

    Attributes:
        worked_on: what becomes of structures that a person has worked on; the page asks where it is None.
    """

    worked_on: Literal["keep", "replace"] | None = None


class Finished(Message):
    """Whether a person has finished the label of a scan."""

    labelled: bool
