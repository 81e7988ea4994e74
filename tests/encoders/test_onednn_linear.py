"""Linear layers by oneDNN: the same results as torch's, wherever they are used."""

import copy
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from no_time_to_train.encoders import onednn_linear
from no_time_to_train.encoders.onednn_linear import OneDnnLinear, prefers_onednn, use_onednn

_mkl: Any = torch.backends.mkl  # torch does not declare its types
HAS_MKL = _mkl.is_available()
HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this build of torch has no oneDNN")


@pytest.fixture(params=["AuthenticAMD", "GenuineIntel"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {request.param}\ncpu family\t: 25\n")
    monkeypatch.setattr(onednn_linear, "_CPU_INFO", tmp_path / "cpuinfo")
    prefers_onednn.cache_clear()
    yield request.param
    prefers_onednn.cache_clear()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 32, bias=False))


@needs_onednn
def test_only_the_layers_of_processors_that_need_it_change(maker: str) -> None:
    changed = network()
    use_onednn(changed)
    kinds = {type(part) for part in changed if isinstance(part, nn.Linear)}
    assert kinds == ({OneDnnLinear} if maker == "AuthenticAMD" and HAS_MKL else {nn.Linear})
    assert changed.state_dict().keys() == network().state_dict().keys()


def test_a_processor_that_does_not_say_who_made_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onednn_linear, "_CPU_INFO", tmp_path / "cpuinfo")
    for name, expected in (("AMD64 Family 25 Model 97, AuthenticAMD", "AuthenticAMD"), ("", ""), ("arm", "arm")):
        monkeypatch.setattr(platform, "processor", lambda name=name: name)
        assert onednn_linear._maker() == expected
    (tmp_path / "cpuinfo").write_text("Processor: ARMv8\n")
    assert onednn_linear._maker() == ""


def layers() -> nn.Module:
    changed = network()
    for part in changed:
        if type(part) is nn.Linear:
            part.__class__ = OneDnnLinear
    return changed


@needs_onednn
@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48), (48,), (0, 48), (2, 0, 48)])
def test_results_are_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    images = torch.randn(shape)
    with torch.inference_mode():
        found, expected = layers()(images), network()(images)
        assert found.shape == expected.shape
        # Sums of 96 products in another order: some 1e-7 of the largest.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        strided = torch.randn(48, 9).T
        torch.testing.assert_close(layers()(strided), network()(strided), rtol=1e-5, atol=1e-6)


@needs_onednn
def test_it_is_onednn_that_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(F, "linear", refuse)
    with torch.inference_mode():
        layers()(torch.randn(3, 48))
    with pytest.raises(AssertionError):
        layers()(torch.randn(3, 48))


@needs_onednn
def test_training_autocast_and_other_dtypes_are_torchs() -> None:
    images = torch.randn(6, 48)
    ours, theirs = layers(), network()
    ours(images).square().sum().backward()
    theirs(images).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(images).dtype == torch.bfloat16
            assert torch.equal(ours(images), theirs(images))
        for dtype in (torch.bfloat16, torch.float64):
            copied = copy.deepcopy(ours).to(dtype)
            assert torch.equal(copied(images.to(dtype)), copy.deepcopy(theirs).to(dtype)(images.to(dtype)))
        assert ours.to("meta")(images.to("meta")).shape == (6, 32)
