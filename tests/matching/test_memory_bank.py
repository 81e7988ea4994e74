from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

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
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.memory_bank import foreground_mean
from tests.bad_inputs.table import permissions_bind


def filled() -> MemoryBank:
    bank = MemoryBank(["boat", "bird"], 4, "encoder-1", encoder_name="dinov3_small", image_size=592)
    for index, shots in enumerate((1, 3)):
        for _ in range(shots):
            bank.add(index, torch.randn(5, 7, 4), torch.rand(5, 7) > 0.5)
    bank.add(1, torch.randn(5, 7, 4), torch.rand(5, 7) > 0.5, negative=True)
    return bank


def test_prototype_is_the_normalised_mean_of_the_references_means() -> None:
    bank = MemoryBank(["a"], 2, "e")
    # One patch of the first reference counts as much as three of the second.
    bank.add(0, torch.tensor([[[4.0, 0.0], [99.0, 99.0], [99.0, 99.0]]]), torch.tensor([[1, 0, 0]]))
    bank.add(0, torch.tensor([[[0.0, 2.0], [0.0, 4.0], [0.0, 3.0]]]), torch.tensor([[1, 1, 1]]))
    before = bank.finalized
    bank.finalize()
    assert (before, bank.finalized) == (False, True)
    torch.testing.assert_close(bank.prototypes, torch.tensor([[0.8, 0.6]]))


def test_a_reference_that_comes_later_counts() -> None:
    bank = filled()
    before = bank.prototypes
    bank.add(0, torch.ones(1, 1, 4), torch.ones(1, 1))
    assert not bank.finalized
    assert not torch.equal(bank.prototypes, before)


def test_classes_may_have_different_numbers_of_references() -> None:
    assert filled().counts() == [1, 3]
    assert filled().counts(negative=True) == [0, 1]


def test_empty_classes_are_named() -> None:
    bank = MemoryBank(["boat", "bird", "buoy"], 4, "e")
    bank.add(1, torch.ones(1, 1, 4), torch.ones(1, 1))
    bank.add(2, torch.ones(1, 1, 4), torch.ones(1, 1), negative=True)
    with pytest.raises(EmptyClassError, match="2 of 3 classes have no reference: boat, buoy"):
        bank.finalize()


@pytest.mark.parametrize(("count", "end"), [(9, "c8"), (10, "c9"), (11, "c9, ...")])
def test_ten_classes_are_named_at_most(count: int, end: str) -> None:
    bank = MemoryBank([f"c{index}" for index in range(count + 1)], 4, "e")
    bank.add_mean(count, torch.ones(4))
    with pytest.raises(EmptyClassError, match=rf"^{count} of {count + 1} classes .*, {end}(; |\.? *\(|\n|$|\. )"):
        bank.finalize()


def test_a_class_without_a_reference_is_told_when_the_bank_is_used(tmp_path: Path) -> None:
    bank = MemoryBank(["boat", "bird"], 4, "e")
    bank.add_mean(0, torch.ones(4))
    bank.save(tmp_path / "bank.safetensors")
    loaded = MemoryBank.load(tmp_path / "bank.safetensors")
    assert not loaded.finalized
    assert loaded.image_size is None
    assert not loaded.to("cpu").finalized
    with pytest.raises(EmptyClassError, match="bird"):
        _ = loaded.prototypes
    loaded.add_mean(1, torch.ones(4))
    assert loaded.prototypes.tolist() == [[0.5] * 4] * 2


def test_a_part_of_a_patch_counts_by_its_share() -> None:
    patches = torch.tensor([[[4.0, 0.0], [0.0, 2.0], [9.0, 9.0]]], dtype=torch.bfloat16)
    for weights in (torch.tensor([[0.25, 0.5, 0.0]]), torch.tensor([[0.25, 0.5, 0.0]], dtype=torch.bfloat16)):
        torch.testing.assert_close(foreground_mean(patches, weights), torch.tensor([4 / 3, 4 / 3]))
    torch.testing.assert_close(foreground_mean(patches, torch.tensor([[1, 2, 0]])), torch.tensor([2.0, 1.0]))


def test_negative_directions_follow_what_is_added() -> None:
    bank = filled()
    means, classes = bank.negative_references
    torch.testing.assert_close(bank.negative_directions[0], torch.nn.functional.normalize(means, dim=1))
    bank.add_mean(0, torch.tensor([0.0, 5.0, 0.0, 0.0]), negative=True)
    directions, classes = bank.negative_directions
    assert directions[1].tolist() == [0, 1, 0, 0]
    assert classes.tolist() == [1, 0]


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    bank = filled()
    bank.save(tmp_path / "deep" / "bank.safetensors")
    loaded = MemoryBank.load(tmp_path / "deep" / "bank.safetensors", encoder_fingerprint="encoder-1")
    assert torch.equal(loaded.prototypes, bank.prototypes)
    assert torch.equal(loaded.negative_references[0], bank.negative_references[0])
    assert loaded.class_names == ("boat", "bird")
    assert loaded.finalized
    assert (loaded.encoder_name, loaded.image_size) == ("dinov3_small", 592)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bank.safetensors"]


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    filled().save(path)
    path.chmod(0)
    with permissions_bind(), pytest.raises(WeightsFormatError, match=r"bank\.safetensors cannot be read: Permission"):
        MemoryBank.load(path)


def test_writing_over_a_loaded_file_leaves_the_bank_whole(tmp_path: Path) -> None:
    filled().save(tmp_path / "bank.safetensors")
    loaded = MemoryBank.load(tmp_path / "bank.safetensors")
    means = loaded.means.clone()
    filled().save(tmp_path / "bank.safetensors")
    assert torch.equal(loaded.means, means)


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    filled().save(tmp_path / "bank.safetensors")
    with pytest.raises(
        EncoderMismatchError, match=r"encoder-1, the encoder in use is encoder-2.*fill it anew from the references"
    ):
        MemoryBank.load(tmp_path / "bank.safetensors", encoder_fingerprint="encoder-2")


def test_files_that_are_no_bank(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="fill_memory"):
        MemoryBank.load(tmp_path / "nothing")
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsFormatError, match="no memory bank"):
        MemoryBank.load(tmp_path / "weights.safetensors")
    filled().save(tmp_path / "bank.safetensors")
    content = (tmp_path / "bank.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-7])
    with pytest.raises(WeightsFormatError, match="no whole memory bank"):
        MemoryBank.load(tmp_path / "cut.safetensors")
    damaged = filled()
    damaged.finalize()
    damaged.means[0, 0] = float("nan")
    damaged.save(tmp_path / "nan.safetensors")
    with pytest.raises(WeightsFormatError, match="it holds NaN or infinite features"):
        MemoryBank.load(tmp_path / "nan.safetensors")
    MemoryBank(["b\udcfft"], embed_dim=2, encoder_fingerprint="x").save(tmp_path / "half.safetensors")
    with pytest.raises(WeightsFormatError, match=r"half of a surrogate pair, .*'b\\udcfft'"):
        MemoryBank.load(tmp_path / "half.safetensors")


@pytest.mark.parametrize("value", [0.0, 3e38])
def test_references_without_direction_are_refused(value: float, tmp_path: Path) -> None:
    """Zero, or so large that the length of the feature overflows: prototypes would be zero, and match nothing."""
    bank = filled()
    bank.save(tmp_path / "fine.safetensors")
    useless = MemoryBank.load(tmp_path / "fine.safetensors")
    useless.means[:] = value
    useless.save(tmp_path / "useless.safetensors")
    with pytest.raises(WeightsFormatError, match="all zero, or too large to normalize"):
        MemoryBank.load(tmp_path / "useless.safetensors")
    with pytest.raises(WeightsFormatError, match=r"mean feature that is zero .*ntt inspect"):
        useless.finalize()


def test_a_bank_of_another_width_is_refused(tmp_path: Path) -> None:
    """Also where its fingerprint is the encoder's: the file was changed since."""
    filled().save(tmp_path / "bank.safetensors")
    path = tmp_path / "bank.safetensors"
    assert MemoryBank.load(path, encoder_fingerprint="encoder-1", embed_dim=4).embed_dim == 4
    with pytest.raises(EncoderMismatchError, match="features of width 4, those of the encoder in use are of width 8"):
        MemoryBank.load(path, encoder_fingerprint="encoder-1", embed_dim=8)
    with pytest.raises(EncoderMismatchError, match=r"mean feature of shape \(8,\), expected \(4,\)"):
        filled().add_mean(0, torch.zeros(8))


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"class_names": '["boat", "boat"]'}, {}, "different names"),
        ({"class_names": '["boat", ""]'}, {}, "a class has an empty name"),
        ({"class_names": '{"boat": 1, "boat": 2}'}, {}, "is there twice"),
        ({"class_names": "[NaN]"}, {}, "NaN is not a JSON number"),
        ({"image_size": "-592"}, {}, "its image size is -592"),
        ({"class_names": '"boat"'}, {}, "its class names are 'boat', expected one or more"),
        ({"class_names": "[]"}, {}, "its class names are"),
        ({"class_names": '["boat", 1]'}, {}, "its class names are"),
        ({"image_size": "592.0"}, {}, "its image size is 592.0"),
        ({"image_size": "0"}, {}, "its image size is 0"),
        ({"image_size": "true"}, {}, "its image size is True"),
        ({}, {"means": torch.zeros(5, 0)}, "its tensors are of shapes"),
        ({}, {"means": torch.zeros(4, 4)}, "its tensors are of shapes"),
        ({}, {"means": torch.ones(5)}, "its tensors are of shapes"),
        ({}, {"classes": torch.zeros(4, dtype=torch.long)}, "its tensors are of shapes"),
        ({}, {"negative": torch.zeros(5, 1, dtype=torch.bool)}, "its tensors are of shapes"),
        ({}, {"classes": torch.tensor([0, 1, -1, 1, 1])}, "a reference is of none of its 2 classes"),
        ({}, {"classes": torch.tensor([0, 1, 1, 1, 2])}, "a reference is of none of its 2 classes"),
    ],
)
def test_inconsistent_banks_are_refused(
    metadata: dict[str, str], tensors: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bank.safetensors"
    filled().save(path)
    with safe_open(path, framework="pt") as file:
        whole = {name: file.get_tensor(name) for name in ("means", "classes", "negative")}
        described = dict(file.metadata())
    save_file(whole | tensors, path, described | metadata)
    with pytest.raises(WeightsFormatError, match=f"no whole memory bank: .*{message}"):
        MemoryBank.load(path)


def test_rows_fill_an_equal_bank() -> None:
    bank, again = filled(), MemoryBank(["boat", "bird"], 4, "encoder-1")
    for mean, class_index, negative in bank.rows():
        again.add_mean(class_index, mean, negative)
    assert torch.equal(again.prototypes, bank.prototypes)
    assert again.counts(negative=True) == bank.counts(negative=True)


def test_a_thousand_classes_stay_small(tmp_path: Path) -> None:
    """LVIS with 2 shots of 1024 dimensions: means, not feature maps."""
    bank = MemoryBank([f"class {index}" for index in range(1203)], 1024, "e")
    patches, mask = torch.ones(1, 1, 1024), torch.ones(1, 1)
    for index in range(2406):
        bank.add(index % 1203, patches, mask)
    bank.save(tmp_path / "lvis.safetensors")
    assert (tmp_path / "lvis.safetensors").stat().st_size < 10.1e6


@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_references_are_refused() -> None:
    bank = filled()
    for index in (2, -1):
        with pytest.raises(UnknownNameError, match=f"no class {index}, expected 0 to 1"):
            bank.add(index, torch.ones(1, 1, 4), torch.ones(1, 1))
    with pytest.raises(EncoderMismatchError, match=r"expected \(h, w, 4\)"):
        bank.add(0, torch.ones(1, 4), torch.ones(1))
    with pytest.raises(EncoderMismatchError, match=r"expected \(h, w, 4\)"):
        bank.add(0, torch.ones(1, 1, 5), torch.ones(1, 1))
    with pytest.raises(MaskSizeError, match="resize the mask"):
        bank.add(0, torch.ones(2, 2, 4), torch.ones(3, 2))
    with pytest.raises(EmptyMaskError, match="'boat' has no foreground"):
        bank.add(0, torch.ones(2, 2, 4), torch.zeros(2, 2))
    for names in (["a", "a"], []):
        with pytest.raises(ConfigError, match="different names"):
            MemoryBank(names, 2, "e")


def test_a_bank_of_arrays_is_the_same_as_of_tensors(tmp_path: Path) -> None:
    bank, arrays = filled(), MemoryBank(["boat", "bird"], 4, "encoder-1", encoder_name="dinov3_small", image_size=592)
    for mean, class_index, negative in bank.rows():
        arrays.add_mean(class_index, mean.numpy(), negative)
    assert isinstance(arrays.prototypes, np.ndarray)
    # The mean of up to three rows, in float32.
    torch.testing.assert_close(torch.from_numpy(arrays.prototypes), bank.prototypes, atol=1e-6, rtol=0)
    arrays.save(tmp_path / "arrays.safetensors")
    loaded = MemoryBank.load(tmp_path / "arrays.safetensors", encoder_fingerprint="encoder-1")
    for name in ("means", "classes", "negative"):
        assert torch.equal(getattr(loaded, name), getattr(bank, name))
    moved = arrays.to("cpu")
    assert moved is arrays
    assert moved.finalized
    assert torch.equal(moved.means, bank.means)
    assert torch.equal(moved.negative_directions[0], bank.negative_directions[0])


def test_a_bank_keeps_the_kind_of_its_first_reference() -> None:
    bank = MemoryBank(["boat"], 4, "e")
    assert isinstance(bank.means, torch.Tensor)
    bank.add(0, np.ones((1, 2, 4)), torch.ones(1, 2))
    bank.add(0, torch.full((1, 2, 4), 3.0, requires_grad=True), np.array([[True, False]]))
    assert bank.rows()[1][0].tolist() == [3, 3, 3, 3]
    assert [str(part.dtype) for part in (bank.means, bank.classes, bank.negative)] == ["float32", "int64", "bool"]


@pytest.mark.parametrize("name", ["means", "classes", "negative"])
def test_tensors_of_other_types_are_refused(name: str, tmp_path: Path) -> None:
    bank, path = filled(), tmp_path / "bank.safetensors"
    bank.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.int32):
        tensors = {part: getattr(bank, part) for part in ("means", "classes", "negative")}
        save_file(tensors | {name: tensors[name].to(dtype)}, path, metadata)
        with pytest.raises(WeightsFormatError, match="no whole memory bank: its tensors are of types"):
            MemoryBank.load(path)
