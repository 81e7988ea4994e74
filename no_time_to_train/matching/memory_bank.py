"""The memory bank: one mean feature per reference, one prototype per class."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

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

_FORMAT = "no_time_to_train memory bank 1"


class MemoryBank(nn.Module):
    """References of a set of classes, kept as the mean of each one's foreground patch features.

    Feature maps are not kept: 1203 classes with 10 references of 1024 dimensions are 49 MB. Classes may have different
    numbers of references.

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
        >>> patches = torch.tensor([[[3.0, 0.0], [0.0, 9.0]]])
        >>> bank.add(0, patches, torch.tensor([[True, False]]))
        >>> bank.finalize()
        >>> bank.prototypes
        tensor([[1., 0.]])
    """

    means: Float[Tensor, "R D"]
    classes: Int[Tensor, " R"]
    negative: Bool[Tensor, " R"]

    def __init__(
        self,
        class_names: Sequence[str],
        embed_dim: int,
        encoder_fingerprint: str,
        *,
        encoder_name: str = "",
        image_size: int | None = None,
    ) -> None:
        super().__init__()
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
        self._pending: list[tuple[Tensor, int, bool]] = []
        self._prototypes: Tensor | None = None
        self._negative_directions: tuple[Tensor, Tensor] | None = None
        self.register_buffer("means", torch.empty(0, embed_dim))
        self.register_buffer("classes", torch.empty(0, dtype=torch.long))
        self.register_buffer("negative", torch.empty(0, dtype=torch.bool))

    def add(self, class_index: int, patches: Float[Tensor, "h w D"], mask: Tensor, negative: bool = False) -> None:
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
        if mask.shape != patches.shape[:2]:
            raise MaskSizeError(
                f"a mask of shape {tuple(mask.shape)} on a patch grid of {tuple(patches.shape[:2])}",
                remedy="resize the mask to the patch grid",
            )
        if not mask.any():
            raise EmptyMaskError(
                f"a reference of class {self.class_names[class_index]!r} has no foreground on its patch grid",
                remedy="give a mask that covers at least one patch",
            )
        self.add_mean(class_index, foreground_mean(patches, mask.to(patches.device)).detach(), negative)

    def add_mean(self, class_index: int, mean: Float[Tensor, " D"], negative: bool = False) -> None:
        """Add a reference of which the mean foreground feature is known already.

        Raises:
            EncoderMismatchError: It is not as wide as the bank's.
        """
        if mean.shape != (self.embed_dim,):
            raise EncoderMismatchError(
                f"a mean feature of shape {tuple(mean.shape)}, expected ({self.embed_dim},)",
                remedy="use the encoder that this memory bank was made for",
            )
        self._pending.append((mean.to(self.means.device), class_index, bool(negative)))
        self._prototypes = None
        self._negative_directions = None

    def finalize(self) -> None:
        """Compute the prototypes: the L2-normalised mean of each class's references' means.

        Raises:
            EmptyClassError: A class has no positive reference.
            WeightsFormatError: The references of a class have no direction: all zero, or too large to normalize.
        """
        self._consolidate()
        positive = ~self.negative
        counts = torch.bincount(self.classes[positive], minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, counts.tolist(), strict=True) if not count]
        if empty:
            shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
            raise EmptyClassError(
                f"{len(empty)} of {len(self.class_names)} classes have no reference: {shown}",
                remedy="add a reference for each class, or leave the class out",
            )
        sums = torch.zeros(len(self.class_names), self.embed_dim, device=self.means.device)
        sums.index_add_(0, self.classes[positive], self.means[positive])
        means = sums / counts[:, None]
        useless = [
            name for name, fits in zip(self.class_names, _have_direction(means).tolist(), strict=True) if not fits
        ]
        if useless:
            shown = ", ".join(useless[:10]) + (", ..." if len(useless) > 10 else "")
            raise WeightsFormatError(
                f"the references of {len(useless)} of {len(self.class_names)} classes have a mean feature that is zero "
                f"or too large to normalize: {shown}",
                remedy="fill the memory again, and check the encoder's weights with ntt inspect",
            )
        self._prototypes = F.normalize(means, dim=1)

    @property
    def finalized(self) -> bool:
        """Whether the prototypes are there and no reference came after them."""
        return self._prototypes is not None

    @property
    def prototypes(self) -> Float[Tensor, "C D"]:
        """One L2-normalised feature per class; the bank is finalised when it is not yet."""
        if self._prototypes is None or self._prototypes.device != self.means.device:
            self.finalize()
        assert self._prototypes is not None
        return self._prototypes

    @property
    def negative_references(self) -> tuple[Float[Tensor, "Rn D"], Int[Tensor, " Rn"]]:
        """The means of the negative references, not normalised, and their classes."""
        self._consolidate()
        return self.means[self.negative], self.classes[self.negative]

    @property
    def negative_directions(self) -> tuple[Float[Tensor, "Rn D"], Int[Tensor, " Rn"]]:
        """The means of the negative references, L2-normalised, and their classes; computed once."""
        kept = self._negative_directions
        if kept is None or kept[0].device != self.means.device:
            means, classes = self.negative_references
            self._negative_directions = kept = F.normalize(means, dim=1), classes
        return kept

    def counts(self, *, negative: bool = False) -> list[int]:
        """Return the number of references per class, positive or negative ones."""
        self._consolidate()
        chosen = self.classes[self.negative if negative else ~self.negative]
        counts: list[int] = torch.bincount(chosen, minlength=len(self.class_names)).tolist()
        return counts

    def rows(self) -> list[tuple[Float[Tensor, " D"], int, bool]]:
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
        tensors = {name: getattr(self, name).contiguous().cpu() for name in ("means", "classes", "negative")}
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
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise WeightsFormatError(
                        f"{path} is no memory bank, its format is {metadata.get('format')!r}",
                        remedy="give a file that test_mode fill_memory wrote",
                    )
                # Files are memory-mapped: a copy keeps the bank whole when the file is written anew.
                means, classes, negative = (file.get_tensor(name).clone() for name in ("means", "classes", "negative"))
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
        bank.means, bank.classes, bank.negative = means, classes, negative
        if encoder_fingerprint is not None:
            bank.check_encoder(encoder_fingerprint, embed_dim)
        if all(bank.counts()):
            bank.finalize()
        return bank

    def _consolidate(self) -> None:
        """Move what was added one by one into the buffers, at once."""
        if not self._pending:
            return
        device = self.means.device
        means, classes, negative = zip(*self._pending, strict=True)
        self.means = torch.cat([self.means, torch.stack([mean.to(device) for mean in means])])
        self.classes = torch.cat([self.classes, torch.tensor(classes, device=device)])
        self.negative = torch.cat([self.negative, torch.tensor(negative, device=device)])
        self._pending.clear()


def foreground_mean(patches: Float[Tensor, "h w D"], mask: Tensor) -> Float[Tensor, " D"]:
    """Return the mean of the patch features over a mask, in float32.

    Args:
        patches: On their grid.
        mask: On the same grid, (h, w), with some foreground: which patches count, or in float how much each does.
    """
    if not mask.is_floating_point():
        return patches[mask.bool()].float().mean(dim=0)
    weights = mask.float().flatten()
    return weights @ patches.float().flatten(0, 1) / weights.sum()


def _check_rows(class_names: Any, means: Tensor, classes: Tensor, negative: Tensor) -> None:
    """Refuse what a file of memory says if it is not what `MemoryBank.save` writes.

    Raises:
        ValueError: It says what is wrong.
    """
    if not isinstance(class_names, list) or not class_names or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"its class names are {class_names!r:.60}, expected one or more")
    if not can_be_written("".join(class_names)):
        raise ValueError(f"its class names have half of a surrogate pair, which is not text: {class_names!r:.60}")
    kinds = (means.dtype, classes.dtype, negative.dtype)
    if kinds != (torch.float32, torch.int64, torch.bool):
        raise ValueError(f"its tensors are of types {', '.join(map(str, kinds))}")
    if any(not name for name in class_names):
        raise ValueError("a class has an empty name")
    if means.ndim != 2 or not means.shape[1] or classes.shape != (len(means),) or negative.shape != (len(means),):
        raise ValueError(f"its tensors are of shapes {[tuple(part.shape) for part in (means, classes, negative)]}")
    if ((classes < 0) | (classes >= len(class_names))).any():
        raise ValueError(f"a reference is of none of its {len(class_names)} classes")
    if not means.isfinite().all():
        raise ValueError("it holds NaN or infinite features")
    if not _have_direction(means).all():
        raise ValueError("it holds features that are all zero, or too large to normalize")


def _have_direction(rows: Float[Tensor, "R D"]) -> Bool[Tensor, " R"]:
    """Return for each row whether it can be L2-normalized: its length is finite and not zero."""
    lengths = torch.linalg.vector_norm(rows, dim=1)
    fits: Tensor = lengths.isfinite() & (lengths > 0)
    return fits
