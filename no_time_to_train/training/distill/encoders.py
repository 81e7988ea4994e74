"""The two encoders of a distillation."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from no_time_to_train.configs.encoders import EncoderConfig, resolve_encoder, weights_at_hand
from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder_from_checkpoint, build_torch_encoder
from no_time_to_train.errors import WeightsNotFoundError
from no_time_to_train.pl_wrapper.distributed import rank_and_world
from no_time_to_train.training.distill.configs import StudentConfig, TeacherConfig
from no_time_to_train.training.distill.teacher import DinoV3Config, DinoV3Teacher
from no_time_to_train.weights.license import NOTICE_FILE, is_dinov3_licensed


class FrozenTeacher:
    """A teacher beside a training module, not within it: neither trained, nor averaged, nor in its checkpoints.

    Args:
        encoder: What teaches.
        is_dinov3: Whether the DINOv3 License governs it, and so its students.
        shard: Whether to spread its blocks over the processes.
    """

    def __init__(self, encoder: FeatureEncoder, *, is_dinov3: bool, shard: bool = False) -> None:
        self.encoder, self.is_dinov3, self.shard = encoder, is_dinov3, shard
        self.is_sharded = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenTeacher":
        """Copies of the module, such as one whose weights are averaged, share their teacher."""
        return self

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.encoder.model

    @property
    def config(self) -> EncoderConfig:
        """The registry entry."""
        return self.encoder.config

    def prepare(self, device: torch.device) -> None:
        """Bring it to the device; if it is to be sharded, spread its blocks over the processes (FSDP2)."""
        if not self.is_sharded:
            nn.Module.to(self.encoder, device)
            if self.shard and rank_and_world()[1] > 1:
                self.spread(device)

    def spread(self, device: torch.device) -> None:
        """Spread its blocks over the processes of the group, each of which has the whole on its device until now."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (rank_and_world()[1],))
        for part in list(self.model.modules()):
            if isinstance(part, nn.ModuleList):
                for block in part:
                    fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.is_sharded = True
        rank_zero_info(f"the teacher's blocks are spread over {rank_and_world()[1]} processes")


def build_teacher(config: TeacherConfig) -> FrozenTeacher:
    """Build the teacher, frozen and in evaluation mode.

    Raises:
        UnknownEncoderError: Its name is not known.
        WeightsNotFoundError: Its weights are not there.
        LocalEntryNotFoundError: Its folder is not whole.
    """
    if config.folder is not None:
        encoder = DinoV3Teacher(DinoV3Config(root=config.folder, dtype=config.dtype)).encoder
        return FrozenTeacher(encoder, is_dinov3=under_dinov3(config.folder, encoder.config), shard=config.shard)
    entry = resolve_encoder(str(config.name))
    found = config.ckpt_path or weights_at_hand(entry)
    if found is None and not config.random_init:
        raise WeightsNotFoundError(
            f"there are no weights of the teacher {entry.name} under checkpoints/",
            remedy=f"ntt fetch {entry.name}, or set teacher.ckpt_path, or teacher.random_init to try the pipeline",
        )
    dtype = getattr(torch, config.dtype)
    encoder = build_torch_encoder(entry.name, found, random_init=config.random_init, dtype=dtype)
    return FrozenTeacher(encoder, is_dinov3=under_dinov3(found, entry), shard=config.shard)


def under_dinov3(weights: Path | None, entry: EncoderConfig) -> bool:
    """Return whether the DINOv3 License governs weights: by what they are, or by the notice that lies beside them."""
    if weights is None:
        return False
    beside = (weights if weights.is_dir() else weights.parent) / NOTICE_FILE
    return beside.is_file() or is_dinov3_licensed(entry, entry.name)


def build_student(config: StudentConfig) -> FeatureEncoder:
    """Build the student, ready to be trained.

    Raises:
        UnknownEncoderError: Its name is not known.
        WeightsNotFoundError: Its weights are not there.
        WeightsFormatError: They are damaged.
    """
    if config.folder is not None:
        student = build_encoder_from_checkpoint(config.folder)
    elif config.ckpt_path is not None:
        student = build_torch_encoder(str(config.name), config.ckpt_path)
    else:
        student = _fresh(str(config.name), config.seed)
    student.model.requires_grad_(True)
    # Serves pre-training only: without masks it gets no gradient, which processes would wait for.
    mask = getattr(getattr(student.model, "embeddings", None), "mask_token", None)
    if mask is not None:
        mask.requires_grad_(False)
    # In training transformers moves the places of patches about at random; the teacher's stay.
    rope: Any = getattr(student.model, "rope_embeddings", None)
    if rope is not None:
        rope.config = copy.copy(rope.config)  # the model's own is written beside its weights
        rope.config.pos_embed_shift = rope.config.pos_embed_jitter = rope.config.pos_embed_rescale = None
    parts: Any = student.model.modules()
    for part in parts:
        if hasattr(part, "drop_prob"):  # random numbers that no checkpoint holds
            part.drop_prob = 0.0
    student.model.train()
    return student


def _fresh(name: str, seed: int) -> FeatureEncoder:
    with warnings.catch_warnings():
        # Random weights are what is wanted here.
        warnings.filterwarnings("ignore", message=".*has random weights")
        return build_torch_encoder(name, random_init=True, seed=seed)
