"""Pictures of a comparison: drift over the blocks, where in an image tokens differ, and both sides' features."""

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from no_time_to_train.parity.stage_errors import StageDrift
from no_time_to_train.results.drawing import pca_basis, pca_colors

_DPI = 110
# Below it, cosines in float64 are rounding.
_LEAST = 1e-16
_SIDE = 3.2


def draw_stages(drifts: Sequence[StageDrift], title: str) -> bytes:
    """Draw one backend's drift per block as PNG, on a logarithmic scale, a line a stage; faults are marked."""
    figure = Figure(figsize=(10, 4.8), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=colormaps["tab20"](np.arange(20)))
    for stage in dict.fromkeys(drift.stage for drift in drifts):
        line = [drift for drift in drifts if drift.stage == stage]
        marker = "o" if len(line) == 1 else "."
        values = [_drawable(drift.max_abs) for drift in line]
        axes.plot([drift.block for drift in line], values, label=stage, marker=marker)
    faults = [drift for drift in drifts if drift.at_fault]
    if faults:
        places, values = [drift.block for drift in faults], [_drawable(drift.max_abs) for drift in faults]
        axes.scatter(places, values, s=110, facecolors="none", edgecolors="red", label="at fault", zorder=3)
    axes.set(yscale="log", xlabel="block (-1: embedding)", ylabel="largest difference", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return _png(figure)


def draw_cosines(
    image: Float[np.ndarray, "H W 3"], one: Float[np.ndarray, "h w D"], other: Float[np.ndarray, "h w D"], title: str
) -> bytes:
    """Draw 1 - cosine of the patch tokens over the image, as PNG."""
    first, second = (tokens.astype(np.float64) for tokens in (one, other))
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    away = 1 - (first * second).sum(-1) / np.maximum(norms, np.finfo(np.float64).tiny)
    # What is not a number is as far away as can be.
    away = np.clip(np.nan_to_num(away, nan=2.0), _LEAST, 2.0)
    figure = Figure(figsize=(2.4 * _SIDE, _SIDE), dpi=_DPI, layout="constrained")
    plain, over = figure.subplots(1, 2)
    _show(plain, image, "image")
    _show(over, image, title)
    extent = (0, image.shape[1], image.shape[0], 0)
    norm = LogNorm(vmin=float(away.min()), vmax=max(float(away.max()), 2 * float(away.min())))
    drawn = over.imshow(away, cmap="inferno", norm=norm, alpha=0.75, extent=extent, interpolation="nearest")
    figure.colorbar(drawn, ax=over, label="1 - cosine")
    return _png(figure)


def draw_features(sides: Sequence[tuple[str, Float[np.ndarray, "h w D"]]], image: Float[np.ndarray, "H W 3"]) -> bytes:
    """Draw patch features by the first side's three leading components, beside each other, as PNG."""
    figure = Figure(figsize=(_SIDE * (1 + len(sides)), _SIDE), dpi=_DPI, layout="constrained")
    panels = figure.subplots(1, 1 + len(sides))
    _show(panels[0], image, "image")
    basis = None
    for panel, (name, tokens) in zip(panels[1:], sides, strict=True):
        features = np.nan_to_num(tokens.astype(np.float32))
        basis = pca_basis(features.reshape(-1, features.shape[-1])) if basis is None else basis
        _show(panel, pca_colors(features, basis), name)
    return _png(figure)


def draw_comparison(
    stem: str,
    grids: Mapping[str, Float[np.ndarray, "h w D"]],
    image: Float[np.ndarray, "H W 3"],
    blocks: Sequence[StageDrift],
    what: str = "patch tokens",
) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Draw the stages of each backend, and one image's features.

    Args:
        stem: Of the files' names.
        grids: The features of each backend, the reference's first.
        image: In [0, 1].
        blocks: The stages.
        what: The features, in words.

    Returns:
        Names of PNG files, with captions and contents.
    """
    reference, *others = grids
    for other in others:
        pair = f"{reference}-{other}"
        drifts = [drift for drift in blocks if drift.backend == other]
        if drifts:
            caption = f"{pair}: how far every stage is from the reference's"
            yield f"{stem}-{pair}-stages.png", (caption, draw_stages(drifts, caption))
        caption = f"{pair}: 1 - cosine of the {what}"
        yield f"{stem}-{pair}-cosine.png", (caption, draw_cosines(image, grids[reference], grids[other], caption))
    caption = f"{what}, coloured by the principal components of {reference}'s"
    yield f"{stem}-features.png", (caption, draw_features(list(grids.items()), image))


def _drawable(value: float) -> float:
    """Return a number that a logarithmic scale shows; none (a gap) for what is not a number."""
    return max(value, _LEAST) if np.isfinite(value) else float("nan")


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
