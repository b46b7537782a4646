"""Colours of classes on dark pictures."""

from colorsys import hsv_to_rgb

# Bright enough on black, distinct beside each other; more classes get hues by the golden ratio.
_COLOURS = (
    "#ff5d5d", "#4cc2ff", "#ffd166", "#58e08a", "#d58bff", "#ff9f45", "#2fe0d0", "#ff8fc7", "#c3e04b",
    "#8fa8ff", "#f2c6a0", "#e6e6e6", "#b5835a",
)  # fmt: skip
_GOLDEN = 0.61803398875


def class_colour(index: int) -> str:
    """Colour of the class with this number, from 1."""
    if index <= len(_COLOURS):
        return _COLOURS[index - 1]
    red, green, blue = (round(255 * part) for part in hsv_to_rgb(index * _GOLDEN % 1, 0.55, 1))
    return f"#{red:02x}{green:02x}{blue:02x}"
