"""The memory bank: one mean feature per reference, one prototype per class."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from no_time_to_train.errors import (
    ConfigError,
    EmptyClassError,
    EmptyMaskError,
    EncoderMismatchError,
    MaskSizeError,
    UnknownNameError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.io.atomic import write_bytes_atomic
from no_time_to_train.io.messages import can_be_written
from no_time_to_train.io.paths import open_regular
from no_time_to_train.io.strict_json import parse_json
from no_time_to_train.matching.array_ops import (
    Array,
    array_namespace,
    as_float,
    as_like,
    default_namespace,
    is_numpy,
    normalize,
    sum_by_class,
    to_numpy,
)

_FORMAT = "no_time_to_train memory bank 1"
# As safetensors names their types.
_TENSORS = {"means": "F32", "classes": "I64", "negative": "BOOL"}


class MemoryBank:
    """References of a set of classes, kept as the mean of each one's foreground patch features.

    Feature maps are not kept: 1203 classes with 10 references of 1024 dimensions are 49 MB. Classes may have different
    numbers of references.

    It holds arrays of the kind that its first reference is of. Empty, and from a file, it holds torch tensors where
    torch has been imported, and NumPy arrays otherwise; matching takes either.

    Args:
        class_names: One name per class, in the order of the class indices.
        embed_dim: Width of the features, D.
        encoder_fingerprint: Identity of what makes the features: encoder, weights, image size, debiasing.
        encoder_name: For people who look into the file.
        image_size: Side in pixels of the encoder's input, for people who look into the file.

    Raises:
        ConfigError: No classes, or a name twice.

    Examples:
        >>> bank = MemoryBank(["boat"], embed_dim=2, encoder_fingerprint="an-encoder")
        >>> patches = np.array([[[3.0, 0.0], [0.0, 9.0]]])
        >>> bank.add(0, patches, np.array([[True, False]]))
        >>> bank.finalize()
        >>> bank.prototypes
        array([[1., 0.]], dtype=float32)
    """

    def __init__(
        self,
        class_names: Sequence[str],
        embed_dim: int,
        encoder_fingerprint: str,
        *,
        encoder_name: str = "",
        image_size: int | None = None,
    ) -> None:
        if not class_names or len(set(class_names)) != len(class_names):
            raise ConfigError(
                f"a memory bank needs classes with different names, got {list(class_names)}",
                remedy="give each class one name",
            )
        self.class_names = tuple(class_names)
        self.embed_dim = embed_dim
        self.encoder_fingerprint = encoder_fingerprint
        self.encoder_name = encoder_name
        self.image_size = image_size
        self._pending: list[tuple[Array, int, bool]] = []
        self._prototypes: Array | None = None
        self._negative_directions: tuple[Array, Array] | None = None
        self._clear(default_namespace())

    def _clear(self, xp: Any) -> None:
        self.means: Float[Array, "R D"] = xp.empty((0, self.embed_dim), dtype=xp.float32)
        self.classes: Int[Array, " R"] = xp.empty(0, dtype=xp.int64)
        self.negative: Bool[Array, " R"] = xp.empty(0, dtype=xp.bool)

    def to(self, device: Any) -> "MemoryBank":
        """Move the bank to a device, as torch tensors, and return it."""
        import torch

        return self.like(torch.empty(0, device=device))

    def like(self, array: Array) -> "MemoryBank":
        """Hold arrays of the kind and on the device of another one from now on, and return the bank."""
        self._consolidate()
        parts = (self.means, self.classes, self.negative)
        self.means, self.classes, self.negative = (as_like(part, array) for part in parts)
        self._prototypes = None if self._prototypes is None else as_like(self._prototypes, array)
        self._negative_directions = None
        return self

    def add(self, class_index: int, patches: Float[Array, "h w D"], mask: Array, negative: bool = False) -> None:
        """Add a reference of a class.

        Args:
            class_index: Index into the class names.
            patches: The reference's patch features on their grid.
            mask: Its foreground on the same grid, (h, w): which patches count, or in float how much each of them does.
            negative: The reference shows what the class is not.

        Raises:
            UnknownNameError: There is no class of that index.
            EncoderMismatchError: The features are not as wide as the bank's.
            MaskSizeError: The mask is not on the patch grid.
            EmptyMaskError: The mask has no foreground.
        """
        if not 0 <= class_index < len(self.class_names):
            raise UnknownNameError(
                f"there is no class {class_index}, expected 0 to {len(self.class_names) - 1}",
                remedy="give the index of a class name of this bank",
            )
        if patches.ndim != 3 or patches.shape[-1] != self.embed_dim:
            raise EncoderMismatchError(
                f"features of shape {tuple(patches.shape)}, expected (h, w, {self.embed_dim})",
                remedy="use the encoder that this memory bank was made for",
            )
        if tuple(mask.shape) != tuple(patches.shape[:2]):
            raise MaskSizeError(
                f"a mask of shape {tuple(mask.shape)} on a patch grid of {tuple(patches.shape[:2])}",
                remedy="resize the mask to the patch grid",
            )
        if not mask.any():
            raise EmptyMaskError(
                f"a reference of class {self.class_names[class_index]!r} has no foreground on its patch grid",
                remedy="give a mask that covers at least one patch",
            )
        self.add_mean(class_index, foreground_mean(patches, as_like(mask, patches)), negative)

    def add_mean(self, class_index: int, mean: Float[Array, " D"], negative: bool = False) -> None:
        """Add a reference of which the mean foreground feature is known already.

        Raises:
            EncoderMismatchError: It is not as wide as the bank's.
        """
        if tuple(mean.shape) != (self.embed_dim,):
            raise EncoderMismatchError(
                f"a mean feature of shape {tuple(mean.shape)}, expected ({self.embed_dim},)",
                remedy="use the encoder that this memory bank was made for",
            )
        if not self._pending and not len(self.means) and is_numpy(mean) != is_numpy(self.means):
            self._clear(array_namespace(mean))
        self._pending.append((as_like(mean, self.means), class_index, bool(negative)))
        self._prototypes = None
        self._negative_directions = None

    @np.errstate(over="ignore", invalid="ignore")
    def finalize(self) -> None:
        """Compute the prototypes: the L2-normalised mean of each class's references' means.

        Raises:
            EmptyClassError: A class has no positive reference.
            WeightsFormatError: The references of a class have no direction: all zero, or too large to normalize.
        """
        counts = self.counts()
        if empty := self._names_where([not count for count in counts]):
            raise EmptyClassError(
                f"{len(empty)} of {len(self.class_names)} classes have no reference: {_listed(empty)}",
                remedy="add a reference for each class, or leave the class out",
            )
        positive = ~self.negative
        sums = sum_by_class(self.means[positive], self.classes[positive], len(counts))
        means = sums / as_like(np.asarray(counts, dtype=np.float32), sums)[:, None]
        if useless := self._names_where(~_have_direction(means)):
            raise WeightsFormatError(
                f"the references of {len(useless)} of {len(self.class_names)} classes have a mean feature that is zero "
                f"or too large to normalize: {_listed(useless)}",
                remedy="fill the memory again, and check the encoder's weights with ntt inspect",
            )
        self._prototypes = normalize(means)

    @property
    def finalized(self) -> bool:
        """Whether the prototypes are there and no reference came after them."""
        return self._prototypes is not None

    @property
    def prototypes(self) -> Float[Array, "C D"]:
        """One L2-normalised feature per class; the bank is finalised when it is not yet."""
        if self._prototypes is None:
            self.finalize()
        assert self._prototypes is not None
        return self._prototypes

    @property
    def negative_references(self) -> tuple[Float[Array, "Rn D"], Int[Array, " Rn"]]:
        """The means of the negative references, not normalised, and their classes."""
        self._consolidate()
        return self.means[self.negative], self.classes[self.negative]

    @property
    def negative_directions(self) -> tuple[Float[Array, "Rn D"], Int[Array, " Rn"]]:
        """The means of the negative references, L2-normalised, and their classes; computed once."""
        if self._negative_directions is None:
            means, classes = self.negative_references
            self._negative_directions = normalize(means), classes
        return self._negative_directions

    def counts(self, *, negative: bool = False) -> list[int]:
        """Return the number of references per class, positive or negative ones."""
        self._consolidate()
        chosen = self.classes[self.negative if negative else ~self.negative]
        counts: list[int] = np.bincount(to_numpy(chosen), minlength=len(self.class_names)).tolist()
        return counts

    def rows(self) -> list[tuple[Float[Array, " D"], int, bool]]:
        """Return each reference's mean, class index and whether it is negative, in the order in which they came."""
        self._consolidate()
        return list(zip(self.means, self.classes.tolist(), self.negative.tolist(), strict=True))

    def check_encoder(self, encoder_fingerprint: str, embed_dim: int | None = None) -> None:
        """Refuse features of another encoder than the bank's.

        Args:
            encoder_fingerprint: Of the encoder in use.
            embed_dim: Width of its features, D; not checked if None.

        Raises:
            EncoderMismatchError: The fingerprints or the widths differ.
        """
        if encoder_fingerprint != self.encoder_fingerprint:
            raise EncoderMismatchError(
                f"the memory bank was filled with {self.encoder_fingerprint}, the encoder in use is "
                f"{encoder_fingerprint}",
                remedy="use the encoder and settings that it was filled with, or fill it anew from the references "
                "(Segmenter, or test_mode fill_memory)",
            )
        if embed_dim is not None and embed_dim != self.embed_dim:
            raise EncoderMismatchError(
                f"the memory bank holds features of width {self.embed_dim}, those of the encoder in use are of width "
                f"{embed_dim}",
                remedy="fill it anew from the references (Segmenter, or test_mode fill_memory)",
            )

    def save(self, path: Path | str) -> None:
        """Write the bank as safetensors, atomically: a file that is there is whole."""
        self._consolidate()
        metadata = {
            "format": _FORMAT,
            "class_names": json.dumps(self.class_names),
            "encoder_fingerprint": self.encoder_fingerprint,
            "encoder_name": self.encoder_name,
            "image_size": json.dumps(self.image_size),
        }
        tensors = {name: np.ascontiguousarray(to_numpy(getattr(self, name))) for name in _TENSORS}
        # Its own `save_file` writes beside the file too, under names that say nothing of who left them.
        write_bytes_atomic(Path(path), save(tensors, metadata))

    @classmethod
    def load(
        cls, path: Path | str, *, encoder_fingerprint: str | None = None, embed_dim: int | None = None
    ) -> "MemoryBank":
        """Read a bank that `save` wrote; it is finalised when every class has a reference.

        Args:
            path: The safetensors file.
            encoder_fingerprint: The encoder in use, checked against the bank's when given.
            embed_dim: Width of that encoder's features, likewise.

        Raises:
            WeightsNotFoundError: There is no such file.
            WeightsFormatError: The file is damaged or is no memory bank.
            EncoderMismatchError: The bank was filled with another encoder.
        """
        path = Path(path)
        if not path.is_file():
            raise WeightsNotFoundError(f"no memory bank at {path}", remedy="fill one with test_mode fill_memory")
        try:
            # Of a file that may not be read, safetensors says that there is none.
            open_regular(path).close()
        except OSError as error:
            raise WeightsFormatError(
                f"the memory bank {path} cannot be read: {error.strerror or error}", remedy="check its permissions"
            ) from error
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise WeightsFormatError(
                        f"{path} is no memory bank, its format is {metadata.get('format')!r}",
                        remedy="give a file that test_mode fill_memory wrote",
                    )
                kinds = {name: file.get_slice(name).get_dtype() for name in _TENSORS}
                if kinds != _TENSORS:
                    raise ValueError(f"its tensors are of types {kinds}, expected {_TENSORS}")
                # Files are memory-mapped: a copy keeps the bank whole when the file is written anew.
                means, classes, negative = (np.array(file.get_tensor(name)) for name in _TENSORS)
            class_names, image_size = (
                parse_json(metadata["class_names"]),
                parse_json(metadata.get("image_size", "null")),
            )
            if image_size is not None and (type(image_size) is not int or image_size < 1):
                raise ValueError(f"its image size is {image_size!r:.40}, expected a number of pixels")
            _check_rows(class_names, means, classes, negative)
            bank = cls(
                class_names,
                means.shape[1],
                metadata["encoder_fingerprint"],
                encoder_name=metadata.get("encoder_name", ""),
                image_size=image_size,
            )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            if isinstance(error, WeightsFormatError):
                raise
            raise WeightsFormatError(
                f"{path} is no whole memory bank: {error}",
                remedy="fill it again with test_mode fill_memory, or give ntt predict its --references",
            ) from error
        bank.means, bank.classes, bank.negative = (as_like(part, bank.means) for part in (means, classes, negative))
        if encoder_fingerprint is not None:
            bank.check_encoder(encoder_fingerprint, embed_dim)
        if all(bank.counts()):
            bank.finalize()
        return bank

    def _names_where(self, chosen: Iterable[Any]) -> list[str]:
        return [name for name, is_chosen in zip(self.class_names, chosen, strict=True) if is_chosen]

    def _consolidate(self) -> None:
        """Move what was added one by one into the buffers, at once."""
        if not self._pending:
            return
        xp = array_namespace(self.means)
        means, classes, negative = zip(*self._pending, strict=True)
        self.means = xp.concat([self.means, as_float(xp.stack(means))])
        self.classes = xp.concat([self.classes, as_like(np.asarray(classes), self.means)])
        self.negative = xp.concat([self.negative, as_like(np.asarray(negative), self.means)])
        self._pending.clear()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def foreground_mean(patches: Float[Array, "h w D"], mask: Array) -> Float[Array, " D"]:
    """Return the mean of the patch features over a mask, in float32.

    Args:
        patches: On their grid.
        mask: On the same grid, (h, w), with some foreground: which patches count, or in float how much each does.
    """
    xp = array_namespace(patches)
    if xp.isdtype(mask.dtype, ("bool", "integral")):
        return xp.mean(as_float(patches[xp.astype(mask, xp.bool)]), axis=0)
    weights = xp.reshape(as_float(mask), (-1,))
    return weights @ xp.reshape(as_float(patches), (len(weights), patches.shape[2])) / xp.sum(weights)


def _check_rows(class_names: Any, means: np.ndarray, classes: np.ndarray, negative: np.ndarray) -> None:
    """Refuse what a file of memory says if it is not what `MemoryBank.save` writes.

    Raises:
        ValueError: It says what is wrong.
    """
    if not isinstance(class_names, list) or not class_names or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"its class names are {class_names!r:.60}, expected one or more")
    if not can_be_written("".join(class_names)):
        raise ValueError(f"its class names have half of a surrogate pair, which is not text: {class_names!r:.60}")
    if any(not name for name in class_names):
        raise ValueError("a class has an empty name")
    if means.ndim != 2 or not means.shape[1] or classes.shape != (len(means),) or negative.shape != (len(means),):
        raise ValueError(f"its tensors are of shapes {[tuple(part.shape) for part in (means, classes, negative)]}")
    if ((classes < 0) | (classes >= len(class_names))).any():
        raise ValueError(f"a reference is of none of its {len(class_names)} classes")
    if not np.isfinite(means).all():
        raise ValueError("it holds NaN or infinite features")
    if not _have_direction(means).all():
        raise ValueError("it holds features that are all zero, or too large to normalize")


@np.errstate(over="ignore")
def _have_direction(rows: Float[Array, "R D"]) -> Bool[Array, " R"]:
    """Return for each row whether it can be L2-normalized: its length is finite and not zero."""
    xp = array_namespace(rows)
    lengths = xp.linalg.vector_norm(rows, axis=1)
    return xp.isfinite(lengths) & (lengths > 0)
