import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from no_time_to_train.errors import ConfigError
from no_time_to_train.matching import debias
from no_time_to_train.matching.debias import PositionalDebias, positional_basis


def blank(height: int, width: int) -> Tensor:
    """Make features of a blank image that vary with the position along two of eight directions."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    features = torch.zeros(height, width, 8)
    features[..., 0], features[..., 1], features[..., 7] = rows, columns * 0.5, 5
    return features


def test_the_basis_is_orthonormal_and_spans_the_positions() -> None:
    basis = positional_basis(blank(6, 5), 2)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-6, rtol=0)
    # What varies with the position lies in the first two directions; normalising bends it a little into the constant.
    assert basis[:, :2].norm() > 0.99 * basis.norm()


def test_what_depends_on_the_position_is_gone_and_the_rest_stays() -> None:
    content = torch.zeros(6, 5, 8)
    content[:3, :, 3], content[3:, :, 4] = 3, 3
    cleaned = PositionalDebias(blank, components=2)(content + blank(6, 5) * torch.tensor([1, 1, 1, 1, 1, 1, 1, 0]))
    assert cleaned[..., :2].abs().max() < 0.05
    torch.testing.assert_close(cleaned.norm(dim=-1), torch.ones(6, 5))
    assert (F.cosine_similarity(cleaned[:3], content[:3], dim=-1) > 0.99).all()


def test_autocast_changes_nothing() -> None:
    features = torch.randn(6, 5, 8)
    plain = PositionalDebias(blank, components=2)(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(PositionalDebias(blank, components=2)(features), plain)


def test_one_basis_per_grid() -> None:
    asked = []

    def counting(height: int, width: int) -> Tensor:
        asked.append((height, width))
        return blank(height, width)

    debias = PositionalDebias(counting, components=1)
    for shape in ((4, 6), (4, 6), (6, 4), (4, 6)):
        debias(torch.randn(*shape, 8))
    assert asked == [(4, 6), (6, 4)]


def test_published_proportion_and_limits() -> None:
    assert len(positional_basis(torch.randn(40, 40, 64))) == round(64 * 500 / 1024)
    assert len(positional_basis(torch.randn(2, 3, 64))) == 5
    # A thin image among others has fewer patches than components: all of its positions go.
    assert len(positional_basis(torch.randn(2, 3, 64), 6)) == 5
    assert len(positional_basis(torch.randn(1, 1, 64), 6)) == 0
    assert debias._COMPONENTS_PER_DIM * 1024 == 500
    assert [len(positional_basis(torch.randn(9, 9, 64), count)) for count in (1, 63)] == [1, 63]
    for wrong in (0, 64):
        with pytest.raises(ConfigError, match="expected 1 to 63"):
            positional_basis(torch.randn(20, 20, 64), wrong)


def test_a_grid_of_one_patch_is_only_normalised() -> None:
    features = torch.randn(1, 1, 8)
    found = PositionalDebias(blank, components=2)(features)
    torch.testing.assert_close(found, F.normalize(features, dim=-1))
