"""What the two frozen networks give for images: in batches, and from a cache where it has been computed before."""

import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, runtime_checkable

from jaxtyping import Float, UInt8

from no_time_to_train.configs.pipeline import ResizePolicy
from no_time_to_train.encoders.feature_checks import check_features
from no_time_to_train.encoders.preprocessing import EncoderInput, encoder_pixels
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.array_ops import Array, array_namespace, array_on, as_float, as_like
from no_time_to_train.matching.precision import without_gradients
from no_time_to_train.matching.tiled_masks import pixel_reach
from no_time_to_train.models.cache.entries import are_embedding, are_masks, are_patches
from no_time_to_train.models.cache.feature_cache import FeatureCache, content_key
from no_time_to_train.models.cache.mask_codec import pack_masks, unpack_masks
from no_time_to_train.models.protocols import IMPROVED, Protocol
from no_time_to_train.proposers.base import Embedding, MaskProposals, MaskProposer, PromptableModel
from no_time_to_train.runtime.features import EncoderFeatures

Image = UInt8[Array, "3 _ _"]

# Takes pixels; gives what a network makes of them.
Network = Callable[[Float[Array, "B 3 _ _"]], tuple[Array, ...]]


@runtime_checkable
class ImageEncoder(EncoderInput, typing.Protocol):
    """A feature encoder, in torch or in ONNX Runtime."""

    random_weights: bool

    @property
    def embed_dim(self) -> int:
        """Width of the features, D."""

    @property
    def fingerprint(self) -> str:
        """Identity of architecture and weights."""

    def __call__(self, pixel_values: Float[Array, "B 3 H W"]) -> EncoderFeatures:
        """Encode images."""


class ImageFeatures:
    """Patch features, embeddings and mask proposals of images.

    With a cache, everything is kept under the image's content, the networks' weights and their settings, so that other
    references or thresholds need neither network again.

    Args:
        encoder: Gives patch features.
        promptable: Gives embeddings for prompts.
        policy: How images are resized for the encoder.
        cache: Where results are kept; None computes everything.
        protocol: Its rules for images.
        encode: Gives patch features of pixels by the encoder; asks it if None.
        embed: Gives embeddings of pixels by the promptable model, in the order of its `embedding_shapes`; asks it if
            None.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        promptable: PromptableModel,
        policy: ResizePolicy = "stretch",
        cache: FeatureCache | None = None,
        protocol: Protocol = IMPROVED,
        *,
        encode: Network | None = None,
        embed: Network | None = None,
    ) -> None:
        self._encoder = encoder
        self._promptable = promptable
        self._policy = policy
        self.cache = cache
        self._protocol = protocol
        self._fingerprints: dict[str, str] = {}
        self._encode = encode or partial(patches_of, encoder)
        self._embed = embed or partial(embedding_of, promptable)

    @without_gradients()
    def patches(self, images: Sequence[Image], *, references: bool = False) -> list[Float[Array, "_ _ D"]]:
        """Return the patch features of images, in float32; images that are resized to one size go together.

        Args:
            images: RGB.
            references: They are the surroundings of references, cut out, rather than targets.

        Raises:
            WeightsFormatError: The encoder gives features that cannot be matched.
        """
        protocol = self._protocol
        resize = protocol.resize_reference if references else protocol.resize_target
        what = protocol.key(f"patches {self._encoder.img_size} {self._policy}")
        if resize is not protocol.resize_target:
            what += " reference"
        found = self._read(what, self._encoder_fingerprint, images)
        pixels = {
            index: encoder_pixels(image, self._encoder, self._policy, resize)
            for index, image in enumerate(images)
            if found[index] is None
        }
        for size in {entry.shape for entry in pixels.values()}:
            together = [index for index, entry in pixels.items() if entry.shape == size]
            (batch,) = self._encode(_together([pixels[index] for index in together]))
            for index, patches in zip(together, as_float(batch), strict=True):
                check_features(patches, images[index], self._encoder_name)
                found[index] = {"patches": patches}
                self._keep(what, self._encoder_fingerprint, images[index], found[index])
        like = array_on(self._encoder.device)
        return [as_like(entry["patches"], like) for entry in found if entry is not None]

    @without_gradients()
    def embeddings(self, images: Sequence[Image]) -> list[Embedding]:
        """Return the embeddings of images, each of one image.

        Raises:
            WeightsFormatError: The model gives embeddings from which no masks can be told.
        """
        model = self._promptable
        what = self._protocol.key("embedding")
        found = self._read(what, self._promptable_fingerprint, images)
        missing = [index for index, entry in enumerate(found) if entry is None]
        if missing:
            batch = self._embed(_together([model.preprocess(images[index]) for index in missing]))
            for place, index in enumerate(missing):
                names = model.embedding_shapes
                entry = {name: part[place : place + 1] for name, part in zip(names, batch, strict=True)}
                # The first is what prompts attend to.
                (places, *_) = (part[0] for part in entry.values())
                places = array_namespace(places).permute_dims(places, (1, 2, 0))
                check_features(places, images[index], model.kind)
                found[index] = entry
                self._keep(what, self._promptable_fingerprint, images[index], entry)
        like = array_on(model.device)
        return [{name: as_like(part, like) for name, part in entry.items()} for entry in found if entry is not None]

    def proposals(
        self,
        images: Sequence[Image],
        key: str,
        proposer: MaskProposer,
        patches: Sequence[Float[Array, "_ _ D"]],
        memory: MemoryBank | None,
    ) -> list[MaskProposals]:
        """Return the masks that are proposed for images.

        Args:
            images: RGB.
            key: Names every setting that decides the masks, except image, weights and protocol.
            proposer: Proposes masks. What a cache gives in its place has the same foreground at the image's size, but
                other logits away from it.
            patches: The images' patch features, for the proposer.
            memory: The references, for a proposer that uses them.
        """
        settings, like = self._protocol.key(key), array_on(self._promptable.device)
        masks: dict[int, MaskProposals] = {}
        for index, image in enumerate(images):
            reach = self._reach(image)
            (entry,) = self._read(_outlined(settings, reach), self._promptable_fingerprint, [image])
            if entry is not None:
                # Outlines of other masks are made anew.
                with suppress(ValueError):
                    masks[index] = MaskProposals(*(as_like(part, like) for part in unpack_masks(entry, reach)))
        missing = [index for index in range(len(images)) if index not in masks]
        for index, embedding in zip(missing, self.embeddings([images[index] for index in missing]), strict=True):
            masks[index] = proposer(embedding, patches[index], memory)
            if self.cache is not None:
                image, reach = images[index], self._reach(images[index])
                packed = pack_masks(masks[index], reach)
                self._keep(_outlined(settings, reach), self._promptable_fingerprint, image, packed)
        return [masks[index] for index in range(len(images))]

    def _reach(self, image: Image) -> int:
        side = self._promptable.mask_size
        return pixel_reach((side, side), (image.shape[1], image.shape[2]))

    def warm(self) -> None:
        """Read the weights for the cache's keys now, rather than at the first image."""
        if self.cache is not None:
            self._encoder_fingerprint()
            self._promptable_fingerprint()

    @property
    def _encoder_name(self) -> str:
        return f"the encoder {self._encoder.config.name}"

    # The cache ------------------------------------------------------------------------------------------------------

    def _read(
        self, what: str, fingerprint: Callable[[], str], images: Sequence[Image]
    ) -> list[dict[str, Array] | None]:
        if self.cache is None:
            return [None] * len(images)
        return [
            self.cache.get(content_key(what, fingerprint(), image), partial(self._are_usable, what, image))
            for image in images
        ]

    def _are_usable(self, what: str, image: Image, tensors: Mapping[str, Array]) -> bool:
        if what.startswith("patches "):
            return are_patches(tensors, image, self._encoder, self._policy)
        model = self._promptable
        return are_embedding(tensors, model) if what.startswith("embedding") else are_masks(tensors, model)

    def _keep(self, what: str, fingerprint: Callable[[], str], image: Image, tensors: dict[str, Array] | None) -> None:
        if self.cache is not None and tensors is not None:
            self.cache.put(content_key(what, fingerprint(), image), tensors)

    def _encoder_fingerprint(self) -> str:
        # Both networks are frozen: their weights are read once.
        return self._once("encoder", lambda: self._encoder.fingerprint)

    def _promptable_fingerprint(self) -> str:
        return self._once("promptable", self._promptable.fingerprint)

    def _once(self, name: str, compute: Callable[[], str]) -> str:
        if name not in self._fingerprints:
            # Autocast changes what comes out, as much as other weights do.
            self._fingerprints[name] = compute()
        return f"{self._fingerprints[name]} {autocast_state(self._promptable.device)}"


def patches_of(encoder: ImageEncoder, pixels: Float[Array, "B 3 H W"]) -> tuple[Float[Array, "B h w D"]]:
    """Return the patch features of images, alone in a tuple."""
    return (encoder(pixels).patches,)


def embedding_of(model: PromptableModel, pixels: Float[Array, "B 3 S S"]) -> tuple[Array, ...]:
    """Return the embeddings of images, in the order of the model's `embedding_shapes`."""
    embedding = model.embed(pixels)
    return tuple(embedding[name] for name in model.embedding_shapes)


def _together(images: Sequence[Float[Array, "1 3 H W"]]) -> Float[Array, "B 3 H W"]:
    return array_namespace(images[0]).concat(images)


def _outlined(settings: str, reach: int) -> str:
    """Name masks by how much of their outlines is kept: more where the image is smaller than they are."""
    return settings if reach == 1 else f"{settings} reach {reach}"


def autocast_state(device: Any) -> str:
    """Name what autocast makes of models on a device now; it changes what they compute."""
    if isinstance(device, str):
        return "plain"
    import torch

    if not torch.is_autocast_enabled(device.type):
        return "plain"
    return f"autocast {torch.get_autocast_dtype(device.type)}"
