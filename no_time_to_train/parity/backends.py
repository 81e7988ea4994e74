"""The same question put to each backend: the tokens of a batch of images, and what comes out of every stage."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float
from transformers import PreTrainedModel

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.encoders.onnx_encoder import OnnxEncoder, build_onnx_encoder
from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder_from_checkpoint
from no_time_to_train.errors import NoTimeToTrainError
from no_time_to_train.export.verify import compiled_tokens
from no_time_to_train.jax_models.load import EqxEncoder, leaf_names, save_eqx_encoder
from no_time_to_train.parity.stages import FINAL_NORM, Trace, trace_torch, with_inputs
from no_time_to_train.runtime.onnx_session import open_tapped_session
from no_time_to_train.weights.identify import ONNX

Kind = Literal["torch", "eqx", "onnx"]
AnyEncoder = Encoder | EqxEncoder | Path | str
_LEAST_ROUNDED = ("fp64", "fp32", "fp16", "bf16", "int8")
# By the names of dtypes.
PRECISIONS = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Backend:
    """An encoder, whatever runs it.

    Attributes:
        name: `torch`, `eqx` or `onnx`, and a number where there is another of the kind.
        kind: The same without a number.
        precision: fp32, bf16, fp16 or int8.
        device: cpu or cuda.
        config: The registry entry.
        encoder: What runs.
    """

    name: str
    kind: Kind
    precision: str
    device: str
    config: EncoderConfig
    encoder: Encoder | EqxEncoder

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches."""
        return 1 + self.config.num_storage_tokens

    @property
    def fingerprint(self) -> str:
        """Identity of architecture and weights; reads all of them once."""
        if isinstance(self.encoder, Encoder):
            return self.encoder.fingerprint
        return f"eqx-{self.config.name}-{leaves_digest(self.encoder)[:16]}"

    def outputs(
        self, pixels: Float[np.ndarray, "B 3 H W"]
    ) -> tuple[Float[np.ndarray, "B N D"], Float[np.ndarray, "B D"]]:
        """Encode images: all tokens, and what is given as the pooled output, which is the first of them."""
        if not isinstance(self.encoder, Encoder):
            tokens = np.asarray(compiled_tokens(self.encoder, jnp.asarray(pixels)), np.float32)
            return tokens, tokens[:, 0]
        with torch.inference_mode():
            given = torch.from_numpy(pixels).to(self.encoder.device)
            if isinstance(self.encoder, OnnxEncoder):
                states, pooled = self.encoder.outputs(given)
            else:
                states = self.encoder.tokens(given)
                pooled = states[:, 0]
            return states.float().cpu().numpy(), pooled.float().cpu().numpy()

    def trace(self, pixels: Float[np.ndarray, "B 3 H W"]) -> Trace:
        """Return what comes out of every stage that can be seen, on the CPU; shapes may be flat."""
        if isinstance(self.encoder, FeatureEncoder):
            given = torch.from_numpy(pixels).to(self.encoder.device, self.encoder.dtype)
            return trace_torch(self.encoder.model, given)
        if isinstance(self.encoder, OnnxEncoder):
            return with_inputs(_trace_onnx(self.encoder, pixels))
        if isinstance(self.encoder, Encoder):
            return Trace()
        tokens, stages = _compiled_trace(self.encoder, jnp.asarray(pixels))
        arrays = (*stages, (FINAL_NORM, tokens))
        return with_inputs({name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays})


def backend_of(encoder: AnyEncoder, taken: Sequence[str] = ()) -> Backend:
    """Wrap an encoder.

    Args:
        encoder: A torch or ONNX encoder, an Equinox one, or the folder of an export, with `onnx:` before it or without.
        taken: Names of other backends.

    Raises:
        WeightsFormatError: A folder holds no whole export.
        WeightsNotFoundError: There is no such folder.
    """
    if isinstance(encoder, (str, Path)):
        encoder = build_onnx_encoder(str(encoder).removeprefix(ONNX), square=False)
    kind: Kind = "eqx"
    precision, device = "fp32", "cpu"
    if isinstance(encoder, OnnxEncoder):
        kind, precision, device = "onnx", encoder.file.metadata.get("precision", "fp32"), encoder.device.type
    elif isinstance(encoder, Encoder):
        kind, device = "torch", encoder.device.type
        precision = PRECISIONS[str(encoder.dtype).removeprefix("torch.")]
    else:
        leaf = next(leaf for leaf in jax.tree_util.tree_leaves(encoder.norm) if eqx.is_array(leaf))
        precision, device = PRECISIONS[leaf.dtype.name], next(iter(leaf.devices())).platform
    return Backend(numbered(kind, taken), kind, precision, device, encoder.config, encoder)


def numbered(kind: str, taken: Sequence[str]) -> str:
    """Return the name of a backend: its kind, and a number where others of the kind have names already."""
    count = sum(name.rstrip("0123456789") == kind for name in taken)
    return f"{kind}{count + 1}" if count else kind


def leaves_digest(model: eqx.Module) -> str:
    """Hash the names and values of an Equinox model's leaves."""
    digest = hashlib.sha256()
    for name, leaf in zip(leaf_names(model), jax.tree_util.tree_leaves(model), strict=True):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def torch_model_of(backends: Sequence[Backend]) -> PreTrainedModel | None:
    """Return the torch model whose stages the others are held against.

    That of the least rounded weights: a torch encoder's own, or one with the weights of an Equinox encoder, or of an
    export whose folder holds them. None if there is none: int8 and fp16 exports hold their own weights alone.
    """
    kinds: tuple[Kind, ...] = ("torch", "eqx", "onnx")
    for backend in sorted(backends, key=lambda one: (_LEAST_ROUNDED.index(one.precision), kinds.index(one.kind))):
        encoder = backend.encoder
        if isinstance(encoder, FeatureEncoder):
            return encoder.model
        if isinstance(encoder, OnnxEncoder):
            try:
                return build_encoder_from_checkpoint(encoder.file.path.parent).model
            except NoTimeToTrainError:
                continue
        if not isinstance(encoder, Encoder):
            with tempfile.TemporaryDirectory() as folder:
                return build_encoder_from_checkpoint(save_eqx_encoder(encoder, Path(folder) / "twin.eqx")).model
    return None


# In pairs: JIT gives dictionaries back sorted by their keys.
@eqx.filter_jit
def _compiled_trace(
    model: EqxEncoder, pixels: Float[Array, "B 3 H W"]
) -> tuple[Float[Array, "B N D"], tuple[tuple[str, Array], ...]]:
    stages: dict[str, Array] = {}
    # A GPU would multiply in TF32.
    with jax.default_matmul_precision("highest"):
        tokens = model.tokens(pixels, stages.__setitem__)
    return tokens, tuple(stages.items())


def _trace_onnx(encoder: OnnxEncoder, pixels: np.ndarray) -> Trace:
    session, names = open_tapped_session(encoder.file, device=str(encoder.device))
    count = len(pixels)
    batch = encoder.file.batch_size or count
    pixels = np.concatenate([pixels, np.repeat(pixels[-1:], -count % batch, axis=0)])
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*names, FINAL_NORM)}
    for begin in range(0, len(pixels), batch):
        values = session.run([*names, "last_hidden_state"], {"pixel_values": pixels[begin : begin + batch]})
        for name, array in zip(parts, values, strict=True):
            parts[name].append(array.reshape(batch, -1, array.shape[-1]))
    return {name: torch.from_numpy(np.concatenate(arrays)[:count].astype(np.float32)) for name, arrays in parts.items()}
