"""The classes of the embedded synthetic dataset: shape x texture x palette, 24 to learn from and 8 to be new.

A novel class has either a shape or a texture that no base class has, and shares its palette with one other novel
class, so that colour alone cannot tell the two apart.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShapeClass:
    """One class of drawn objects.

    Attributes:
        name: The category's name, ``texture_shape_palette``.
        shape: A key of `no_time_to_train.data.synthetic.drawing.OUTLINES`.
        texture: A key of `no_time_to_train.data.synthetic.textures.TEXTURES`.
        palette: A key of `PALETTES`.
    """

    name: str
    shape: str
    texture: str
    palette: str


# Primary and secondary colour, sRGB in 0-255. A texture is a pattern of the second on the first.
PALETTES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((196, 38, 42), (244, 206, 168)),
    "orange": ((236, 128, 28), (104, 44, 22)),
    "yellow": ((240, 202, 44), (96, 76, 62)),
    "green": ((52, 132, 52), (188, 222, 96)),
    "teal": ((20, 138, 136), (216, 238, 220)),
    "blue": ((36, 70, 172), (146, 198, 240)),
    "violet": ((116, 46, 150), (240, 164, 204)),
    "brown": ((120, 78, 44), (226, 196, 142)),
}

# Every base shape stands with two textures, every base texture with three shapes and every palette with three
# classes, so that the three attributes can be learnt apart from each other.
BASE_CLASSES: tuple[ShapeClass, ...] = (
    ShapeClass("striped_star_red", "star", "striped", "red"),
    ShapeClass("dotted_disc_red", "disc", "dotted", "red"),
    ShapeClass("plain_cross_red", "cross", "plain", "red"),
    ShapeClass("checkered_square_orange", "square", "checkered", "orange"),
    ShapeClass("speckled_heart_orange", "heart", "speckled", "orange"),
    ShapeClass("ringed_triangle_orange", "triangle", "ringed", "orange"),
    ShapeClass("gridded_hexagon_yellow", "hexagon", "gridded", "yellow"),
    ShapeClass("striped_crescent_yellow", "crescent", "striped", "yellow"),
    ShapeClass("plain_star_yellow", "star", "plain", "yellow"),
    ShapeClass("wavy_disc_green", "disc", "wavy", "green"),
    ShapeClass("dotted_triangle_green", "triangle", "dotted", "green"),
    ShapeClass("speckled_arrow_green", "arrow", "speckled", "green"),
    ShapeClass("ringed_square_teal", "square", "ringed", "teal"),
    ShapeClass("wavy_cross_teal", "cross", "wavy", "teal"),
    ShapeClass("plain_drop_teal", "drop", "plain", "teal"),
    ShapeClass("striped_hexagon_blue", "hexagon", "striped", "blue"),
    ShapeClass("gridded_ring_blue", "ring", "gridded", "blue"),
    ShapeClass("checkered_heart_blue", "heart", "checkered", "blue"),
    ShapeClass("dotted_arrow_violet", "arrow", "dotted", "violet"),
    ShapeClass("speckled_crescent_violet", "crescent", "speckled", "violet"),
    ShapeClass("gridded_bow_violet", "bow", "gridded", "violet"),
    ShapeClass("ringed_drop_brown", "drop", "ringed", "brown"),
    ShapeClass("checkered_ring_brown", "ring", "checkered", "brown"),
    ShapeClass("wavy_bow_brown", "bow", "wavy", "brown"),
)

# In each pair, one class with a new texture on a known shape and one with a new shape under a known texture.
NOVEL_CLASSES: tuple[ShapeClass, ...] = (
    ShapeClass("marbled_heart_red", "heart", "marbled", "red"),
    ShapeClass("striped_bolt_red", "bolt", "striped", "red"),
    ShapeClass("bricked_hexagon_teal", "hexagon", "bricked", "teal"),
    ShapeClass("dotted_gear_teal", "gear", "dotted", "teal"),
    ShapeClass("zigzag_star_violet", "star", "zigzag", "violet"),
    ShapeClass("checkered_flower_violet", "flower", "checkered", "violet"),
    ShapeClass("plaid_square_yellow", "square", "plaid", "yellow"),
    ShapeClass("wavy_fish_yellow", "fish", "wavy", "yellow"),
)
