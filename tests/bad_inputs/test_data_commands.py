"""`ntt sample-references`, `ntt write-shapes` and `ntt quickstart-report`."""

from typing import Any

import pytest

from tests.bad_inputs.conftest import Judge
from tests.bad_inputs.table import Case, annotation, whole


def sample(name: str, *more: str, says: list[str]) -> Case:
    """`ntt sample-references` from the shop's targets."""
    start = ("--output", "refs.json", "--shots", "1")
    return Case(
        f"sample-references: {name}",
        lambda f: ["sample-references", "--annotations", f.shop.data.targets, *start, *more],
        says,
    )


def shapes(name: str, *more: str, says: list[str]) -> Case:
    """`ntt write-shapes` into a new folder."""
    return Case(f"write-shapes: {name}", lambda f: ["write-shapes", "--root", "new", *more], says)


def report(name: str, *more: str, says: list[str]) -> Case:
    """`ntt quickstart-report` of the small YAML."""
    return Case(f"quickstart-report: {name}", lambda f: ["quickstart-report", "--config", f.shop.matching, *more], says)


def tiny(document: dict[str, Any]) -> None:
    for entry in document["annotations"]:
        entry["bbox"] = [1, 1, 1, 1]


CASES = [
    sample("no shots", "--shots", "0", says=["at least 1 shot", "got 0"]),
    sample("negative shots", "--shots", "-3", says=["at least 1 shot", "got -3"]),
    sample("shots in words", "--shots", "two", says=["shots", "two", "--help"]),
    sample("more shots than there are", "--shots", "99", says=["disc (5), square (5)", "ask for fewer shots"]),
    sample("an unknown split", "--split", "coco20i_fold9", says=["coco20i_fold9", "coco20i_fold"]),
    sample("a split of other classes", "--split", "voc_novel_split1", says=["has no category", "disc, square"]),
    sample("a seed in words", "--seed", "first", says=["seed", "first", "--help"]),
    sample("an unknown option", "--images", "2", says=["has no option --images", "it has --annotations"]),
    sample("a folder as output", "--output", "out", says=["cannot write out", "it is a folder"]),
    Case(
        "sample-references: no annotations",
        lambda f: ["sample-references", "--shots", "1", "--output", "refs.json"],
        ["annotations", "--help"],
    ),
    Case(
        "sample-references: not there",
        lambda f: ["sample-references", "--annotations", "no.json", "--shots", "1", "--output", "refs.json"],
        ["no.json does not exist", "check the path"],
    ),
    Case(
        "sample-references: only tiny objects",
        lambda f: [
            *(
                "sample-references",
                "--annotations",
                f.coco(tiny),
            ),
            *("--shots", "1", "--output", "refs.json", "--allow-fewer"),
        ],
        ["disc (0), square (0)", "leave out the classes that have none"],
    ),
    Case(
        "sample-references: nothing annotated",
        lambda f: [
            *("sample-references", "--annotations", f.coco(whole(annotations=[], categories=[]))),
            *("--shots", "1", "--output", "refs.json"),
        ],
        ["references.json names no categories", "annotated"],
    ),
    Case(
        "sample-references: an endless box",
        lambda f: [
            *("sample-references", "--annotations", f.coco(annotation(bbox=[1, 2, 3, 1e999]))),
            *("--shots", "1", "--output", "refs.json"),
        ],
        ["references.json is not valid JSON: Infinity is not a JSON number"],
    ),
    Case(
        "sample-references: under a file",
        lambda f: [
            *("sample-references", "--annotations", f.shop.data.targets, "--shots", "1"),
            *("--output", f.under_a_file / "refs.json"),
        ],
        ["cannot write", "a_file", "name a file in a folder"],
    ),
    Case(
        "sample-references: where nobody may write",
        lambda f: [
            *("sample-references", "--annotations", f.shop.data.targets, "--shots", "1"),
            *("--output", f.read_only() / "refs.json"),
        ],
        ["cannot write", "Permission denied", "name a file in a folder"],
    ),
    Case(
        "sample-references: where nothing can be written",
        lambda f: [
            *("sample-references", "--annotations", f.shop.data.targets, "--shots", "1"),
            *("--output", "/proc/refs.json"),
        ],
        ["cannot write /proc/refs.json", "name a file in a folder"],
    ),
    Case(
        "sample-references: a full disk",
        lambda f: [
            *("sample-references", "--annotations", f.shop.data.targets, "--shots", "1"),
            *("--output", f.disk("size=1m,nr_inodes=1") / "refs.json"),
        ],
        ["cannot write", "No space left", "make room"],
    ),
    Case(
        "sample-references: a disk that is read-only",
        lambda f: [
            *("sample-references", "--annotations", f.shop.data.targets, "--shots", "1"),
            *("--output", f.disk("ro,size=1m") / "refs.json"),
        ],
        ["cannot write", "Read-only file system", "name a file in a folder"],
    ),
    shapes("no shots", "--shots", "0", says=["0 shots", "at least one shot"]),
    shapes("negative targets", "--num-targets", "-1", says=["-1 targets", "at least one shot"]),
    shapes("no size", "--size", "0", says=["size", "0", "32"]),
    shapes("a size too small to draw at", "--size", "8", says=["size", "8", "32"]),
    shapes("a negative size", "--size", "-256", says=["size", "-256", "32"]),
    shapes("a size that no memory holds", "--size", "1000000", says=["size", "1000000"]),
    shapes("a size in words", "--size", "small", says=["size", "small", "--help"]),
    shapes("a negative seed", "--seed", "-1", says=["seed", "-1", "0 or more"]),
    shapes("a flag in words", "--distractors=maybe", says=["distractors", "maybe", "--help"]),
    Case("write-shapes: no root", lambda f: ["write-shapes"], ["root", "--help"]),
    Case("write-shapes: a file", lambda f: ["write-shapes", "--root", f.text("a")], ["holds something else", "new"]),
    Case("write-shapes: a taken folder", lambda f: ["write-shapes", "--root", f.out], ["holds something else", "new"]),
    Case(
        "write-shapes: under a file", lambda f: ["write-shapes", "--root", f.under_a_file], ["cannot write", "a_file"]
    ),
    Case(
        "write-shapes: where nobody may write",
        lambda f: ["write-shapes", "--root", f.read_only() / "new"],
        ["cannot write", "read_only", "Permission denied"],
    ),
    Case(
        "write-shapes: a full disk",
        lambda f: ["write-shapes", "--root", f.disk("size=64k") / "new", "--size", "64", "--shots", "1"],
        ["cannot write", "No space left", "disk"],
    ),
    report("one image", "--num-images", "1", says=["1 images", "2 images"]),
    report("images in words", "--num-images", "some", says=["--num-images", "some", "--help"]),
    report("a negative seed", "--seed", "-1", says=["seed", "-1", "0 or more"]),
    Case(
        "quickstart-report: no YAML",
        lambda f: ["quickstart-report", "--config", "nowhere.yaml"],
        ["nowhere.yaml", "run in the repository's folder"],
    ),
    Case(
        "quickstart-report: a YAML with tabs",
        lambda f: ["quickstart-report", "--config", f.text("a.yaml", "model:\n\t1")],
        ["a.yaml does not describe a matching baseline", "give a YAML"],
    ),
    Case(
        "quickstart-report: a YAML of something else",
        lambda f: ["quickstart-report", "--config", f.shop.distill],
        ["distill.yaml does not describe a matching baseline", "give a YAML"],
    ),
    Case(
        "quickstart-report: automatic masks",
        lambda f: ["quickstart-report", "--config", f.settings(name="matching_baseline")],
        ["settings.yaml is not of matching_baseline_noAMG", "give a YAML"],
    ),
    Case(
        "quickstart-report: an unknown setting",
        lambda f: ["quickstart-report", "--config", f.settings(colour="red")],
        ["model_cfg has no setting colour", "it has compile, encoder_cfg"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
