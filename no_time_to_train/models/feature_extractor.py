"""What the two frozen networks give for images: in batches, and from a cache where it has been computed before."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from no_time_to_train.configs.pipeline import ResizePolicy
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.encoders.cuda_graphs import Replayed, is_one_half_image
from no_time_to_train.encoders.feature_checks import check_features
from no_time_to_train.encoders.preprocessing import encoder_pixels
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.tiled_masks import pixel_reach
from no_time_to_train.models.cache.entries import are_embedding, are_masks, are_patches
from no_time_to_train.models.cache.feature_cache import FeatureCache, content_key
from no_time_to_train.models.cache.mask_codec import pack_masks, unpack_masks
from no_time_to_train.models.protocols import IMPROVED, Protocol
from no_time_to_train.proposers.base import Embedding, MaskProposals, MaskProposer, PromptableModel

Image = UInt8[Tensor, "3 _ _"]


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
    """

    def __init__(
        self,
        encoder: Encoder,
        promptable: PromptableModel,
        policy: ResizePolicy = "stretch",
        cache: FeatureCache | None = None,
        protocol: Protocol = IMPROVED,
    ) -> None:
        self._encoder = encoder
        self._promptable = promptable
        self._policy = policy
        self.cache = cache
        self._protocol = protocol
        self._fingerprints: dict[str, str] = {}
        self._replayed_encoder = Replayed(partial(_patches, encoder), encoder, is_one_half_image)
        self._replayed_embed = Replayed(partial(_embedded, promptable), promptable.image_encoder, is_one_half_image)

    @torch.inference_mode()
    def patches(self, images: Sequence[Image], *, references: bool = False) -> list[Float[Tensor, "_ _ D"]]:
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
            (batch,) = self._replayed_encoder(torch.cat([pixels[index] for index in together]))
            for index, patches in zip(together, batch.float(), strict=True):
                check_features(patches, images[index].to(patches.device), self._encoder_name)
                found[index] = {"patches": patches}
                self._keep(what, self._encoder_fingerprint, images[index], found[index])
        return [entry["patches"].to(self._encoder.device) for entry in found if entry is not None]

    @torch.inference_mode()
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
            batch = self._replayed_embed(torch.cat([model.preprocess(images[index]) for index in missing]))
            for place, index in enumerate(missing):
                names = model.embedding_shapes
                entry = {name: part[place : place + 1] for name, part in zip(names, batch, strict=True)}
                # The first is what prompts attend to.
                places = next(iter(entry.values()))[0].permute(1, 2, 0)
                check_features(places, images[index].to(places.device), model.kind)
                found[index] = entry
                self._keep(what, self._promptable_fingerprint, images[index], entry)
        return [{name: part.to(model.device) for name, part in entry.items()} for entry in found if entry is not None]

    def proposals(
        self,
        images: Sequence[Image],
        key: str,
        proposer: MaskProposer,
        patches: Sequence[Float[Tensor, "_ _ D"]],
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
        settings, device = self._protocol.key(key), self._promptable.device
        masks: dict[int, MaskProposals] = {}
        for index, image in enumerate(images):
            reach = self._reach(image)
            (entry,) = self._read(_outlined(settings, reach), self._promptable_fingerprint, [image])
            if entry is not None:
                # Outlines of other masks are made anew.
                with suppress(ValueError):
                    masks[index] = MaskProposals(*(part.to(device) for part in unpack_masks(entry, reach)))
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
    ) -> list[dict[str, Tensor] | None]:
        if self.cache is None:
            return [None] * len(images)
        return [
            self.cache.get(content_key(what, fingerprint(), image), partial(self._are_usable, what, image))
            for image in images
        ]

    def _are_usable(self, what: str, image: Image, tensors: Mapping[str, Tensor]) -> bool:
        if what.startswith("patches "):
            return are_patches(tensors, image, self._encoder, self._policy)
        model = self._promptable
        return are_embedding(tensors, model) if what.startswith("embedding") else are_masks(tensors, model)

    def _keep(self, what: str, fingerprint: Callable[[], str], image: Image, tensors: dict[str, Tensor] | None) -> None:
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


def _patches(encoder: Encoder, pixels: Tensor) -> tuple[Tensor]:
    return (encoder(pixels).patches,)


def _embedded(model: PromptableModel, pixels: Tensor) -> tuple[Tensor, ...]:
    embedding = model.embed(pixels)
    return tuple(embedding[name] for name in model.embedding_shapes)


def _outlined(settings: str, reach: int) -> str:
    """Name masks by how much of their outlines is kept: more where the image is smaller than they are."""
    return settings if reach == 1 else f"{settings} reach {reach}"


def autocast_state(device: torch.device) -> str:
    """Name what autocast makes of models on a device now; it changes what they compute."""
    if not torch.is_autocast_enabled(device.type):
        return "plain"
    return f"autocast {torch.get_autocast_dtype(device.type)}"
