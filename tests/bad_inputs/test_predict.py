"""`ntt predict`: its options, its YAML, its memory files, the weights of its models."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from no_time_to_train.matching import MemoryBank
from tests.bad_inputs.conftest import Judge
from tests.bad_inputs.table import Case, Given
from tests.bad_inputs.test_references import Runs
from tests.golden_files import golden


def option(name: str, *more: str, says: list[str]) -> Case:
    """`ntt predict` with one option more."""
    return Case(f"predict: {name}", lambda f: f.predict(*more), says)


def setting(says: list[str], **changes: object) -> Case:
    """`ntt predict` with a setting of its YAML changed."""
    name = ", ".join(f"{key} {value}" for key, value in changes.items())
    return Case(f"predict: {name}", lambda f: f.predict("--config", f.settings(**changes)), says)


def written(name: str, content: str | bytes, says: list[str]) -> Case:
    """`ntt predict` with a YAML of one's own."""
    return Case(f"predict: a YAML {name}", lambda f: f.predict("--config", f.text("own.yaml", content)), says)


def spoiled(source: Path, target: Path, value: float) -> Path:
    """Write weights of which one tensor holds a number that is none."""
    tensors = load_file(source / "model.safetensors")
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(-1)[0] = value
    save_file(tensors, target, metadata={"format": "pt"})
    return target


def memory(
    f: Given, *, count: int = 2, width: int = 128, fingerprint: str | None = None, **changes: torch.Tensor
) -> Path:
    """Write a memory file like the shop's, with something changed."""
    bank = MemoryBank.load(f.shop.memory)
    other = MemoryBank(["disc", "square"][:count], width, fingerprint or bank.encoder_fingerprint)
    for index in range(count):
        other.add(index, torch.ones(1, 1, width), torch.ones(1, 1))
    for name, tensor in changes.items():
        other._consolidate()
        setattr(other, name, tensor)
    other.save(f.path("memory.safetensors"))
    return f.path("memory.safetensors")


def relabelled(f: Given, **metadata: str) -> Path:
    """Write the shop's memory file with other metadata."""
    known = {
        "format": "no_time_to_train memory bank 1",
        "class_names": '["disc", "square"]',
        "encoder_fingerprint": "x",
    }
    path = f.path("memory.safetensors")
    save_file(load_file(f.shop.memory), path, metadata=known | metadata)
    return path


def pickle_that_runs(f: Given) -> Path:
    torch.save({"model": Runs()}, f.path("weights.pth"))
    return f.path("weights.pth")


CASES = [
    Case(
        "predict: no references",
        lambda f: ["predict", "--images", f.shop.data.images, "--output", f.out],
        ["or a memory of them, got neither", "give one of --references and --memory"],
    ),
    Case(
        "predict: references and a memory",
        lambda f: [*f.predict(), "--memory", f.shop.memory],
        ["or a memory of them, got both", "give one of --references and --memory"],
    ),
    Case("predict: no output", lambda f: f.predict()[:-4], ["required: --output", "ntt predict --help"]),
    Case(
        "predict: references' images in a file",
        lambda f: f.predict("--reference-images", f.shop.data.references),
        ["references.json", "no folder", "--reference-images"],
    ),
    option("a class that is not there", "--class-names", "ring", says=["no category 'ring'", "disc, square"]),
    Case(
        "predict: class names with a memory",
        lambda f: [
            *("predict", "--images", f.shop.data.images, "--output", f.out),
            *("--memory", f.shop.memory, "--class-names", "disc"),
        ],
        ["a memory has its own", "leave out --class-names"],
    ),
    option(
        "no such folder of references",
        "--reference-images",
        "nowhere",
        says=["no folder nowhere", "--reference-images"],
    ),
    option("no such image", "--images", "nowhere", says=["no image and no folder nowhere", "check the path"]),
    option("a pattern without a match", "--images", "x/*.tif", says=["no file matches x/*.tif", "check the pattern"]),
    Case(
        "predict: a list with a name that is not there",
        lambda f: f.predict("--images", f.text("list.txt", "# mine\n\nnowhere.jpg\n")),
        ["list.txt, line 3: there is no image and no folder", "nowhere.jpg", "correct the list"],
    ),
    Case(
        "predict: an empty list",
        lambda f: f.predict("--images", f.text("list.txt", "")),
        ["list.txt names no images", "one a line"],
    ),
    Case(
        "predict: a list as UTF-16 without its mark",
        lambda f: f.predict("--images", f.text("list.txt", "a.jpg\n".encode("utf-16-le"))),
        ["list.txt, entry 1: there is no image and no folder", "correct the list"],
    ),
    option("every frame of no video", "--every", "2", says=["--every is of videos", "leave it out"]),
    option("every zeroth frame", "--every", "0", says=["every is 0, expected 1 or more", "--every 30"]),
    Case(
        "predict: a folder without images",
        lambda f: f.predict("--images", f.folder("empty", "notes.txt")),
        ["no images in", "empty", "name a folder that holds"],
    ),
    option("a score below 0", "--min-score", "-0.1", says=["min_score is -0.1", "0.3 is usual"]),
    option("a score above 1", "--min-score", "30", says=["min_score is 30.0", "0.3 is usual"]),
    option("a score that is not a number", "--min-score", "nan", says=["min_score is nan", "0.3 is usual"]),
    option("a score in words", "--min-score", "high", says=["--min-score is high, expected a number", "--help"]),
    option("an unknown device", "--device", "abacus", says=["device abacus", "cpu always works"]),
    option("a device that is not there", "--device", "cuda:99", says=["device cuda:99", "cpu always works"]),
    option("an unknown option", "--colour", "red", says=["ntt predict has no option --colour", "it has --images"]),
    option("an option without a value", "--memory", says=["memory", "--help"]),
    option("an unknown encoder", "--encoder", "dinov3_smal", says=["dinov3_smal", "did you mean dinov3_small"]),
    option("an ONNX folder that is not there", "--encoder", "onnx:nowhere", says=["nowhere", "ntt export"]),
    option("an unknown SAM2", "--sam2", "sam2_hiera_xl.yaml", says=["sam2_hiera_xl.yaml", "did you mean"]),
    option("weights that are not there", "--encoder-weights", "nowhere.pth", says=["nowhere.pth", "check the path"]),
    # The YAML ------------------------------------------------------------------------------------------------------
    option("no YAML", "--config", "nowhere.yaml", says=["no file nowhere.yaml", "pl_configs/"]),
    Case(
        "predict: a folder as YAML", lambda f: f.predict("--config", f.folder("own.yaml")), ["own.yaml", "pl_configs/"]
    ),
    Case(
        "predict: a YAML that may not be read",
        lambda f: f.predict("--config", f.unreadable(f.shop.matching)),
        ["matching.yaml", "Permission denied", "check"],
    ),
    written("that is empty", "", ["own.yaml holds nothing", "correct it"]),
    written("with tabs", "model:\n\tinit_args: 1\n", ["own.yaml is not valid YAML", "line 2", "correct it"]),
    written("that is a list", "- model\n", ["own.yaml holds a list", "correct it"]),
    written("in Latin-1", "model: größer\n".encode("latin-1"), ["own.yaml is not valid YAML", "correct it"]),
    written(
        "that makes an object", "model: !!python/object/apply:os.system ['touch x']\n", ["own.yaml is not valid YAML"]
    ),
    Case(
        "predict: a YAML with a key twice",
        lambda f: f.predict("--config", f.text("own.yaml", f.shop.matching.read_text() + "model: {}\n")),
        ["own.yaml is not valid YAML", "model", "twice", "correct it"],
    ),
    Case(
        "predict: a YAML of something else",
        lambda f: f.predict("--config", f.shop.distill),
        ["no model.init_args.model_cfg", "matching baselines"],
    ),
    setting(["model_cfg has no setting colour", "it has compile, encoder_cfg"], colour="red"),
    setting(["encoder_cfg has no setting colour", "it has img_size"], encoder_cfg__colour="red"),
    setting(["encoder_cfg is of type str", "by name"], encoder_cfg="dinov3_small"),
    setting(["name", "matching_base", "matching_baseline_noAMG"], name="matching_base"),
    setting(["sam2_cfg_file", "5"], sam2_cfg_file=5),
    setting(["random_init", "perhaps"], random_init="perhaps"),
    setting(["encoder_cfg.name", "7"], encoder_cfg__name=7),
    setting(["img_size", "many"], encoder_cfg__img_size="many"),
    setting(["img_size is 0", "at least 1"], encoder_cfg__img_size=0),
    setting(["65x65", "patch size 16", "use 64x64"], encoder_cfg__img_size=65),
    setting(["img_size is -64", "at least 1"], encoder_cfg__img_size=-64),
    setting(["resize_policy is 'squeeze'", "stretch or keep_ratio"], encoder_cfg__resize_policy="squeeze"),
    setting(["points_per_side", "many"], sam2_infer_cfgs__points_per_side="many"),
    setting(["points_per_side is 0", "at least 1"], sam2_infer_cfgs__points_per_side=0),
    setting(["testing_point_bs is -1", "at least 1"], sam2_infer_cfgs__testing_point_bs=-1),
    setting(["num_out_instance", "2.5"], sam2_infer_cfgs__num_out_instance=2.5),
    setting(["iou_thr is 3", "between 0 and 1"], sam2_infer_cfgs__iou_thr=3),
    setting(["nms_thr is nan", "between 0 and 1"], sam2_infer_cfgs__nms_thr=float("nan")),
    setting(["iou_thr", "high"], sam2_infer_cfgs__iou_thr="high"),
    setting(["sam2_amg_cfg has no place"], sam2_amg_cfg={"points_per_side": 2}),
    setting(["precision", "fp8", "bf16"], precision="fp8"),
    setting(["crop_scale is 0.5", "at least 1"], memory_bank_cfg__crop_scale=0.5),
    setting(["negative_sigma is 0", "more than 0"], memory_bank_cfg__negative_sigma=0),
    setting(["debias", "components", "-5"], memory_bank_cfg__debias={"enabled": True, "components": -5}),
    setting(["debias", "components", "4000", "128"], memory_bank_cfg__debias={"enabled": True, "components": 4000}),
    setting(["feature_cache.max_gb is 0", "more than 0"], feature_cache={"folder": "cache", "max_gb": 0}),
    Case(
        "predict: a cache under a file",
        lambda f: f.predict("--config", f.settings(feature_cache={"folder": str(f.under_a_file)})),
        ["cannot keep features in", "a_file/out"],
    ),
    # Weights -------------------------------------------------------------------------------------------------------
    Case(
        "predict: weights of another encoder",
        lambda f: f.predict("--encoder-weights", golden("vit_mlp_released")),
        ["vit_mlp_released.pth does not hold dinov3_quickstart_tiny"],
    ),
    Case(
        "predict: SAM2's weights for the encoder",
        lambda f: f.predict("--encoder-weights", f.shop.sam2_weights),
        ["sam2_weights", "encoder"],
    ),
    Case(
        "predict: the encoder's weights for SAM2",
        lambda f: f.predict("--sam2-weights", f.shop.encoder / "model.safetensors"),
        ["model.safetensors", "SAM2"],
    ),
    Case(
        "predict: weights cut off",
        lambda f: f.predict("--encoder-weights", f.cut(f.shop.encoder / "model.safetensors")),
        ["model.safetensors is not a complete safetensors file", "fetch the file again"],
    ),
    Case(
        "predict: SAM2's weights cut off",
        lambda f: f.predict("--sam2-weights", f.cut(f.shop.sam2_weights / "model.safetensors")),
        ["model.safetensors is not a complete safetensors file", "fetch the file again"],
    ),
    Case(
        "predict: empty weights",
        lambda f: f.predict("--encoder-weights", f.text("weights.pth", "")),
        ["weights.pth is empty", "fetch the file again"],
    ),
    Case(
        "predict: weights that are text",
        lambda f: f.predict("--encoder-weights", f.text("weights.pth")),
        ["weights.pth is no", "fetch the file again"],
    ),
    Case(
        "predict: weights that run a command",
        lambda f: f.predict("--encoder-weights", pickle_that_runs(f)),
        ["weights.pth is a pickle that asks for more than tensors", "state_dict"],
    ),
    Case(
        "predict: weights of NaN",
        lambda f: f.predict("--encoder-weights", spoiled(f.shop.encoder, f.path("bad.safetensors"), float("nan"))),
        ["bad.safetensors", "NaN", "fetch"],
    ),
    Case(
        "predict: endless weights of SAM2",
        lambda f: f.predict("--sam2-weights", spoiled(f.shop.sam2_weights, f.path("bad.safetensors"), float("inf"))),
        ["bad.safetensors", "infinite", "fetch"],
    ),
    Case(
        "predict: weights that may not be read",
        lambda f: f.predict("--encoder-weights", f.unreadable(f.shop.encoder / "model.safetensors")),
        ["model.safetensors may not be read", "check its permissions"],
    ),
    Case(
        "predict: a SAM2 folder that is none",
        lambda f: f.predict("--sam2", f.text("sam2/config.json", '{"model_type": "bert"}').parent),
        ["config.json is of model_type 'bert'", "name the folder of a SAM2 model"],
    ),
    # Memory --------------------------------------------------------------------------------------------------------
    option("no memory there", "--memory", "no.safetensors", says=["no memory bank at no.safetensors", "fill_memory"]),
    Case(
        "predict: a folder as memory",
        lambda f: f.predict("--memory", f.folder("m")),
        ["no memory bank at", "fill_memory"],
    ),
    Case(
        "predict: memory cut off",
        lambda f: f.predict("--memory", f.cut(f.shop.memory)),
        ["memory.safetensors is no whole memory bank", "fill_memory"],
    ),
    Case(
        "predict: weights as memory",
        lambda f: f.predict("--memory", f.shop.encoder / "model.safetensors"),
        ["model.safetensors is no memory bank", "fill_memory"],
    ),
    Case(
        "predict: memory of another encoder",
        lambda f: f.predict("--memory", memory(f, width=64, fingerprint="another-encoder 64px")),
        ["filled with another-encoder 64px", "fill it anew from the references"],
    ),
    Case(
        "predict: memory of no classes",
        lambda f: f.predict("--memory", relabelled(f, class_names="[]")),
        ["memory.safetensors", "class", "fill"],
    ),
    Case(
        "predict: memory whose classes are no JSON",
        lambda f: f.predict("--memory", relabelled(f, class_names="disc")),
        ["memory.safetensors is no whole memory bank", "fill"],
    ),
    Case(
        "predict: memory of fewer classes than references",
        lambda f: f.predict("--memory", relabelled(f, class_names='["disc"]')),
        ["memory.safetensors is no whole memory bank", "fill"],
    ),
    Case(
        "predict: memory without references",
        lambda f: f.predict(
            "--memory",
            memory(
                f, means=torch.empty(0, 128), classes=torch.empty(0, dtype=torch.long), negative=torch.empty(0).bool()
            ),
        ),
        ["classes have no reference: disc, square", "add a reference"],
    ),
    Case(
        "predict: memory of NaN",
        lambda f: f.predict("--memory", memory(f, means=torch.full((2, 128), float("nan")))),
        ["memory.safetensors", "NaN", "fill"],
    ),
    Case(
        "predict: memory of other lengths",
        lambda f: f.predict("--memory", memory(f, classes=torch.zeros(7, dtype=torch.long))),
        ["memory.safetensors is no whole memory bank", "fill"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
