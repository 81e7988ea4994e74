"""The terms of the loss against what they are said to be, and the features that they compare."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from no_time_to_train.configs.encoders import resolve_encoder
from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder_from_checkpoint
from no_time_to_train.errors import ConfigError, ShapeMismatchError, WeightsNotFoundError
from no_time_to_train.training.distill.configs import LossConfig, OptimizerConfig, StudentConfig, TeacherConfig
from no_time_to_train.training.distill.encoders import build_student, build_teacher
from no_time_to_train.training.distill.features import DenseFeatures, check_layers, dense_features
from no_time_to_train.training.distill.knn import knn_accuracy
from no_time_to_train.training.distill.losses import DistillationLoss, gram_distance, resized
from no_time_to_train.training.schedule import build_adamw
from tests.golden_files import golden

TINY, WHOLE = resolve_encoder("dinov3_quickstart_tiny"), resolve_encoder("dinov3_quickstart")


def features(width: int = 128, side: int = 4, layers: tuple[int, ...] = ()) -> DenseFeatures:
    between = {layer: torch.randn(2, side, side, width) for layer in layers}
    return DenseFeatures(torch.randn(2, width), torch.randn(2, side, side, width), between)


def identical(loss: DistillationLoss) -> DistillationLoss:
    for part in loss.modules():
        if isinstance(part, nn.Linear):
            nn.init.eye_(part.weight)
            nn.init.zeros_(part.bias)
    return loss


def test_nothing_is_lost_where_features_are_equal() -> None:
    loss = identical(DistillationLoss(LossConfig(gram=2.0, layers={0: 3, 1: 5}), TINY, WHOLE))
    same = features(layers=(0, 1))
    found = loss(same, same._replace(layers={3: same.layers[0], 5: same.layers[1]}))
    assert found.terms.keys() == {"cls", "patches", "gram", "layer"}
    assert all(abs(value) < 1e-6 for value in found.terms.values())
    assert torch.allclose(found.patch_cosine, torch.ones(2, 4, 4))


def test_terms_are_what_they_are_said_to_be() -> None:
    config = LossConfig(cls=2.0, patches=3.0, gram=5.0, layer=7.0, layers={1: 4})
    loss = DistillationLoss(config, TINY, WHOLE)
    student, teacher = features(layers=(1,)), features(layers=(4,))
    found = loss(student, teacher)

    def apart(one: Tensor, other: Tensor) -> Any:
        cosines = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))
        return 1 - cosines.mean()

    grams = []
    for patches in (student.patches, teacher.patches):
        flat = patches.reshape(2, 16, 128)
        flat = flat / flat.norm(dim=-1, keepdim=True)
        grams.append(torch.einsum("bnd,bmd->bnm", flat, flat))
    expected = {
        "cls": apart(loss.cls(student.cls), teacher.cls),
        "patches": apart(loss.patches(student.patches), teacher.patches),
        "gram": (grams[0] - grams[1]).square().mean(),
        "layer": apart(loss.layers["1_4"](student.layers[1]), teacher.layers[4]),
    }
    for name, value in expected.items():
        assert torch.allclose(found.terms[name], value, atol=1e-6), name
    total = sum(weight * expected[name] for name, weight in (("cls", 2), ("patches", 3), ("gram", 5), ("layer", 7)))
    assert torch.allclose(found.total, torch.as_tensor(total), atol=1e-5)


def test_terms_of_no_weight_are_left_out() -> None:
    loss = DistillationLoss(LossConfig(cls=0.0), TINY, WHOLE)
    found = loss(features(), features())
    assert torch.equal(found.total, found.terms["patches"])
    assert "gram" not in found.terms
    found.total.backward()
    # Processes would wait for the gradient of what is not used.
    assert all(parameter.grad is not None for parameter in loss.parameters() if parameter.requires_grad)


def test_layers_of_no_weight_have_no_projections() -> None:
    loss = DistillationLoss(LossConfig(layer=0.0, layers={0: 3}), TINY, WHOLE)
    assert loss.config.layers == {}
    assert not list(loss.layers.parameters())


def test_the_gram_term_is_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = gram_distance(features().patches, features().patches)
    assert low.dtype == torch.float32


def test_grids_of_other_sizes_are_matched() -> None:
    """A feature that grows linearly over the image does so on either grid."""
    ramp = torch.linspace(0, 1, 9)[:-1] + 1 / 16
    fine = ramp[None, None, :, None].expand(1, 8, 8, 3)
    coarse = resized(fine, torch.zeros(1, 4, 4, 5))
    assert coarse.shape == (1, 4, 4, 3)
    assert torch.allclose(coarse[0, 0, 1:3, 0], torch.tensor([0.375, 0.625]), atol=1e-6)
    assert resized(fine, fine) is fine
    found = DistillationLoss(LossConfig(gram=1.0), TINY, WHOLE)(features(side=6), features(side=4))
    assert torch.isfinite(found.total)
    assert gram_distance(features(side=2).patches, features(side=2, width=32).patches) > 0


@pytest.mark.parametrize("name", ["vit_mlp_untied", "convnext"])
def test_features_between_blocks(name: str) -> None:
    encoder = build_encoder_from_checkpoint(golden(name))
    pixels = torch.randn(2, 3, 64, 96)
    found = dense_features(encoder.model, encoder.config, pixels, (0, 1))
    expected = encoder(pixels)
    assert torch.equal(found.cls, expected.cls)
    assert torch.equal(found.patches, expected.patches)
    rows, columns = expected.patches.shape[1:3]
    if name == "convnext":
        assert found.layers[0].shape[1:3] == (16, 24)  # the first stage's own stride
    else:
        assert found.layers[0].shape == (2, rows, columns, encoder.embed_dim)
        seen: list[Tensor] = []
        hook = encoder.model.get_submodule("model.layer.1").register_forward_hook(lambda *args: seen.append(args[2]))
        encoder(pixels)
        hook.remove()
        assert torch.equal(found.layers[1].flatten(1, 2), seen[0][:, -rows * columns :])
    with pytest.raises(ConfigError, match=r"names \[9\] of the student"):
        check_layers([0, 9], encoder.config, "student")


def test_what_is_decayed() -> None:
    student = build_student(StudentConfig(name="dinov3_quickstart_tiny"))
    made = build_adamw(student.model, OptimizerConfig(weight_decay=0.1, warmup_steps=10), max_steps=100)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    names = {id(parameter): name for name, parameter in student.model.named_parameters()}
    decayed, others = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {"norm.weight", "embeddings.cls_token", "embeddings.register_tokens", "norm.bias"} <= others
    assert any(name.endswith("lambda1") for name in others)
    assert "embeddings.mask_token" not in decayed | others
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates.index(max(rates)) in (9, 10)
    assert rates[0] == pytest.approx(5e-5, rel=0.01)
    assert schedule.get_last_lr()[0] == pytest.approx(0.01 * 5e-4)


def test_neighbours_vote() -> None:
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 32, generator=random)
    labels = torch.arange(40) % 4
    spread = centres[labels] + 0.3 * torch.randn(40, 32, generator=random)
    assert knn_accuracy(spread, labels) == 1.0
    assert knn_accuracy(torch.randn(40, 32, generator=random), labels) < 0.6
    partly = labels.clone()
    partly[::2] = -1
    assert knn_accuracy(spread, partly) == 1.0
    assert torch.tensor(knn_accuracy(spread[:1], labels[:1])).isnan()


def test_teachers_and_students() -> None:
    weights = golden("vit_mlp_untied")
    with pytest.raises(WeightsNotFoundError, match="no weights of the teacher dinov3_small under checkpoints/"):
        build_teacher(TeacherConfig(name="dinov3_small"))
    with pytest.raises(ShapeMismatchError):
        build_teacher(TeacherConfig(name="dinov3_small", ckpt_path=weights))
    with pytest.warns(UserWarning, match="random weights"):
        teacher = build_teacher(TeacherConfig(name="dinov3_quickstart_tiny", random_init=True, dtype="bfloat16"))
    assert (teacher.encoder.dtype, teacher.encoder.training, teacher.is_dinov3) == (torch.bfloat16, False, False)
    assert not any(parameter.requires_grad for parameter in teacher.encoder.parameters())
    fresh = build_student(StudentConfig(name="dinov3_quickstart_tiny", seed=3))
    assert isinstance(fresh, FeatureEncoder)
    again = build_student(StudentConfig(name="dinov3_quickstart_tiny", seed=3))
    assert all(torch.equal(one, other) for one, other in zip(fresh.parameters(), again.parameters(), strict=True))
    begun = build_student(StudentConfig(folder=weights))
    assert begun.embed_dim == 64
    assert all(p.requires_grad for n, p in begun.model.named_parameters() if "mask_token" not in n)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherConfig(), "the teacher is named twice, or not at all"),
        (lambda: TeacherConfig(name="a", folder=golden("convnext")), "the teacher is named twice"),
        (lambda: StudentConfig(), "the student is named twice, or not at all"),
        (lambda: LossConfig(cls=-1.0), "loss.cls is -1.0"),
        (lambda: LossConfig(cls=0.0, patches=0.0), "leaves the last blocks untrained"),
        (lambda: LossConfig(layers={1.5: 2}), "expected numbers of blocks"),  # type: ignore[dict-item] # as YAML may be
        (lambda: LossConfig(layers={-1: 2}), "expected numbers of blocks, from 0 on"),
        (lambda: OptimizerConfig(learning_rate=0.0), "expected more than 0"),
        (lambda: OptimizerConfig(final_share=2.0), "final_share is 2.0"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
