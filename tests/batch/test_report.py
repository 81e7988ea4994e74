"""The page of `ntt predict --report`: true to what was found, safe with any name, and alive in a browser."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from no_time_to_train import Segmenter, __version__
from no_time_to_train.batch.report import ReferenceFiles, _reference_pictures
from no_time_to_train.cli import main
from no_time_to_train.cli.lightning.command import main as lightning
from tests.browser import dumped, needs_chromium
from tests.data.references.forms import by_class, picture
from tests.tiny import TinyData, write_config

EVIL = '<script>alert("1")</script>'
FILE = 'it\'s <b>bold & "quoted" ünï.png'

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


class Page(HTMLParser):
    """What a page holds: text by the id of the element around it, attributes by tag, and all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in {"script", "style"}:
            self.text += f" {data}"

    def all(self, tag: str, name: str) -> list[str]:
        """Return an attribute of all elements of a kind that have it."""
        return [attributes[name] for kind, attributes in self.tags if kind == tag and name in attributes]


@pytest.fixture(scope="module")
def named(data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """The data set with a class and a file of hostile names, and a negative reference."""
    folder = tmp_path_factory.mktemp("hostile")
    images = shutil.copytree(data.images, folder / "images")
    paths = []
    for path in (data.references, data.targets, data.negatives):
        document = json.loads(path.read_text())
        document["categories"][0]["name"] = EVIL
        paths.append(folder / path.name)
        paths[-1].write_text(json.dumps(document))
    return TinyData(images, *paths)


@pytest.fixture(scope="module")
def run(settings: Path, named: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run with a report over a folder of three images, one that is none, and one of a hostile name."""
    folder = tmp_path_factory.mktemp("home of somebody")
    targets = folder / "targets"
    (targets / "deeper").mkdir(parents=True)
    names = [image["file_name"] for image in json.loads(named.targets.read_text())["images"]][:3]
    # The one with the best score has the last name, so that orders by one and the other differ.
    for index in range(2):
        shutil.copy(named.images / names[index + 1], targets / names[index])
    with Image.open(named.images / names[0]) as image:
        image.save(targets / "deeper" / FILE)
    (targets / "broken.jpg").write_text("no image")

    document = yaml.safe_load(settings.read_text())
    # More instances than one of each class.
    document["model"]["init_args"]["model_cfg"]["sam2_infer_cfgs"]["nms_thr"] = 1.0
    config = folder / "more.yaml"
    config.write_text(yaml.safe_dump(document))

    def predict(output: Path, *more: str, negatives: bool = True) -> Path:
        given = ["--references", str(named.references), "--reference-images", str(named.images), *more]
        given += ["--negative-references", str(named.negatives)] if negatives else []
        options = ["--config", str(config), "--images", str(targets), "--output", str(output), "--report"]
        assert main(["predict", *options, *given]) == 0
        return output / "report.html"

    return predict


@pytest.fixture(scope="module")
def report(run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("out"), "--min-score", "0")


def found(report: Path) -> list[dict[str, Any]]:
    """Return each image's instances, with the name of the image and of the class, from the run's JSON."""
    document = json.loads((report.parent / "predictions.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    images = {image["id"]: image["file_name"] for image in document["images"]}
    return [
        {"image": images[each["image_id"]], "class": names[each["category_id"]], "score": each["score"]}
        for each in document["annotations"]
    ]


def test_it_is_true_to_what_was_found(report: Path) -> None:
    page, instances = Page(report), found(report)
    assert len(instances) > 6
    assert sorted(page.all("li", "data-score"), key=float) == sorted(
        (repr(each["score"]) for each in instances), key=float
    )
    labels = [EVIL, "square"]
    assert sorted(page.all("li", "data-class")) == sorted(str(labels.index(each["class"])) for each in instances)
    assert page.all("li", "data-name") == ["005.jpg", "006.jpg", f"deeper/{FILE}"]
    masks = [attributes["d"] for tag, attributes in page.tags if tag == "path"]
    assert len(masks) == len(instances) + 5  # four references and a negative one
    assert all(re.fullmatch(r"(M\d+ \d+(l[-\d ]+)?z)+", path) for path in masks)
    assert f"{len(instances)} instances in 3 images" in page.text
    counts = Counter(each["image"] for each in instances)
    drawn = [int(number) for number in page.all("g", "data-at")]
    assert sorted(drawn) == sorted(number for count in counts.values() for number in range(count))


def test_it_says_what_the_run_was(report: Path) -> None:
    text = Page(report).text
    assert f"no_time_to_train {__version__}" in text
    assert "dinov3_small, 64 px" in text
    assert "The masks mean nothing. Random weights: encoder, SAM2." in text
    assert "2 references" in text
    assert "not this" in text
    assert "broken.jpg broken.jpg is not an image that Pillow can read (check the file" in text


def test_names_are_text(report: Path) -> None:
    page = Page(report)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert [tag for tag, _ in page.tags].count("b") == page.text.count("not this") == 1
    assert EVIL in page.text
    assert "<script>alert" not in report.read_text(encoding="utf-8")


def test_it_needs_nothing_and_tells_nothing_of_the_machine(report: Path, settings: Path, named: TinyData) -> None:
    page, source = Page(report), report.read_text(encoding="utf-8")
    assert len(page.all("img", "src")) == 3 + 5
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in page.all("img", "src"))
    assert not [uri for uri in page.all("a", "href") if not uri.startswith("#")]
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base"}
    assert not re.findall(r"https?://|url\(|@import", source)
    for path in (report.parent, settings.parent, named.images, Path.home(), Path.cwd()):
        assert str(path) not in source
    assert "home of somebody" not in source
    (policy,) = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert "default-src 'none'" in policy


def test_absolute_names_of_references_tell_nothing_of_the_machine(
    settings: Path, named: TinyData, tmp_path: Path
) -> None:
    document = json.loads(named.references.read_text())
    shown = [image["file_name"] for image in document["images"]]
    for image in document["images"]:
        image["file_name"] = str(named.images / image["file_name"])
    (tmp_path / "absolute.json").write_text(json.dumps(document))
    given = ["--references", str(tmp_path / "absolute.json"), "--reference-images", str(named.images)]
    options = ["--images", str(named.images / "005.jpg"), "--output", str(tmp_path / "out"), "--report"]
    assert main(["predict", "--config", str(settings), *given, *options]) == 0
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert str(named.images) not in source
    assert all(f"in {name}" in source for name in shown)


def test_everything_has_a_name_for_those_who_do_not_see(report: Path) -> None:
    page = Page(report)
    assert len(page.all("img", "alt")) == len(page.all("img", "src"))
    assert all(page.all("img", "alt"))
    source = report.read_text(encoding="utf-8")
    for control in re.findall(r"<(?:input|select)[^>]*>", source):
        before = source[: source.index(control)]
        assert before.rfind("<label") > before.rfind("</label>"), control
    assert 'lang="en"' in source
    assert 'role="status" aria-live="polite"' in source


def test_references_of_all_forms_are_shown(tmp_path: Path) -> None:
    root = by_class(tmp_path / "refs")
    photo = picture(tmp_path / "photos" / "a.jpg")
    negatives = tmp_path / "negatives"
    picture(negatives / "apple" / "x.jpg", seed=5)
    sam2 = str(write_config(tmp_path / "sam2"))
    segmenter = Segmenter("dinov3_small", sam2=sam2, img_size=64, random_init=True)
    files = ReferenceFiles([root, f"{photo}:apple@20,16"], negatives=negatives)
    shown = _reference_pictures(files, ["apple", "pear"], segmenter)
    assert [(each.file_name, each.drawn, each.negative) for each in shown["apple"]] == [
        ("refs/apple/1.jpg", False, False),
        ("photos/a.jpg", True, False),
        ("apple/x.jpg", True, True),
    ]
    assert [each.file_name for each in shown["pear"]] == ["refs/pear/1.jpg"]


def test_an_interrupted_run_that_goes_on_gives_the_same(run: Callable[..., Path], report: Path, tmp_path: Path) -> None:
    """What is left of a run that was cut off: some entries, no result."""
    shutil.copytree(report.parent, tmp_path / "cut")
    for path in (tmp_path / "cut").rglob("*"):
        if path.name in {"report.html", "predictions.json", "005.jpg.json", "005.jpg.png"}:
            path.unlink()
    kept = len(list((tmp_path / "cut" / "instances").rglob("*.json")))
    assert 0 < kept < 3
    assert run(tmp_path / "cut", "--min-score", "0").read_bytes() == report.read_bytes()


def test_nothing_found(run: Callable[..., Path], tmp_path: Path) -> None:
    page = Page(run(tmp_path, "--min-score", "1", negatives=False))
    assert "0 instances in 3 images" in page.text
    assert page.text.count("Nothing was found.") == 3
    assert "not this" not in page.text


def test_a_memory_has_no_pictures(settings: Path, named: TinyData, tmp_path: Path) -> None:
    filling = ["--config", str(settings), "--data", "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule"]
    filling += ["--model.test_mode", "fill_memory", "--out_path", str(tmp_path / "memory.safetensors")]
    root = ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    assert lightning([*filling, *named.arguments, *root]) == 0
    # A name that is not text, as old archives have them.
    odd = tmp_path / "odd" / os.fsdecode(b"caf\xe9.jpg")
    odd.parent.mkdir()
    shutil.copy(next(named.images.iterdir()), odd)
    options = ["--config", str(settings), "--memory", str(tmp_path / "memory.safetensors"), "--report"]
    assert main(["predict", *options, "--images", str(odd.parent), "--output", str(tmp_path / "out")]) == 0
    page = Page(tmp_path / "out" / "report.html")
    assert "They came from a memory file, which keeps their features and no pictures." in page.text
    assert "caf\\udce9.jpg" in page.text
    assert len(page.all("img", "src")) == 1


def test_no_image_at_all(settings: Path, named: TinyData, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    given = ["--references", str(named.references), "--reference-images", str(named.images), "--report"]
    options = ["--config", str(settings), "--images", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(["predict", *options, *given]) == 2
    assert "No image could be read." in Page(tmp_path / "out" / "report.html").text


# What somebody does at the page, a step after the other, and what is seen after each.
STEPS = """
const cards = () => [...document.querySelectorAll("#cards > .card:not([hidden])")];
const shown = (card) => [...card.querySelectorAll(".instances li:not([hidden])")];
const seen = () => ({
  names: cards().map((card) => card.dataset.name),
  scores: cards().map((card) => shown(card).map((item) => Number(item.dataset.score))),
  drawn: cards().map((card) => [...card.querySelectorAll(".instance")]
    .filter((mark) => getComputedStyle(mark).display !== "none").length),
  counts: [...document.querySelectorAll("#class-filter .count")].map((count) => Number(count.textContent)),
  status: document.getElementById("status").textContent,
  controls: getComputedStyle(document.getElementById("controls")).display,
});
const set = (id, value) => {
  const control = document.getElementById(id);
  if (typeof value === "boolean") control.checked = value; else control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
};
const later = () => new Promise((done) => setTimeout(done, 60));
const log = {};
const step = async (name, act) => { act(); await later(); log[name] = seen(); };
(async () => {
  await step("first", () => {});
  await step("score", () => set("score", LEAST));
  await step("hidden", () => set("hide", true));
  await step("reset", () => document.querySelector("[type=reset]").click());
  await step("by score", () => set("sort", "score"));
  await step("by number", () => { set("score", LEAST); set("sort", "number"); });
  await step("text", () => set("text", "DEEPER"));
  await step("none", () => document.getElementById("none").click());
  await step("again", () => document.querySelector("[type=reset]").click());
  await step("class", () => document.querySelector("#class-filter input").click());
  document.querySelector("#cards .picture").click();
  log.large = [document.getElementById("large").open, document.getElementById("large-title").textContent];
  const button = document.querySelector("#stage .instances li:not([hidden]) button");
  button.click();
  log.pressed = [button.getAttribute("aria-pressed"), document.querySelectorAll("#stage .marked").length];
  log.widths = [...document.images].map((image) => image.naturalWidth);
  const out = document.createElement("pre");
  out.id = "log";
  out.textContent = JSON.stringify(log);
  document.body.replaceChildren(out);
})();
"""


@needs_chromium
def test_filters_sorting_and_counts_in_a_browser(report: Path, tmp_path: Path) -> None:
    instances = found(report)
    names = sorted({each["image"] for each in instances})
    scores = {name: [each["score"] for each in instances if each["image"] == name] for name in names}
    least = round(sorted(each["score"] for each in instances)[len(instances) // 2], 2)
    source = report.read_text(encoding="utf-8")
    # The page lets no script run but its own; this copy does.
    source = re.sub(r"<meta http-equiv[^>]*>", "", source)
    page = tmp_path / "copy.html"
    page.write_text(f"{source}<script>{STEPS.replace('LEAST', json.dumps(str(least)))}</script>", encoding="utf-8")
    text = re.search(r'<pre id="log">(.*?)</pre>', dumped(page, tmp_path / "profile"), re.DOTALL)
    assert text is not None
    log = json.loads(text[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    first = log["first"]
    assert first["controls"] != "none"
    assert first["names"] == sorted(names)
    assert sum(first["counts"]) == len(instances)
    assert first["status"] == f"{len(instances)} instances in 3 of 3 images"
    left = {name: sorted((score for score in scores[name] if score >= least), reverse=True) for name in names}
    assert 0 < sum(map(len, left.values())) < len(instances)
    for step in ("score", "hidden"):
        expected = [name for name in sorted(names) if step == "score" or left[name]]
        assert log[step]["names"] == expected
        assert log[step]["scores"] == [left[name] for name in expected]
        assert log[step]["drawn"] == [len(left[name]) for name in expected]
        assert sum(log[step]["counts"]) == sum(map(len, left.values()))
    assert log["reset"] == log["again"] == first
    assert log["by score"]["names"] == sorted(names, key=lambda name: -max(scores[name]))
    assert log["by number"]["names"] == sorted(names, key=lambda name: (-len(left[name]), name))
    assert sorted(names) not in (log["by score"]["names"], log["by number"]["names"])
    assert log["text"]["names"] == [f"deeper/{FILE}"]
    assert log["none"]["status"] == "0 instances in 1 of 3 images"
    of_the_other = [each["score"] for each in instances if each["class"] == "square"]
    assert sorted(score for row in log["class"]["scores"] for score in row) == sorted(of_the_other)
    assert log["class"]["counts"] == first["counts"]
    assert log["large"] == [True, first["names"][0]]
    assert log["pressed"] == ["true", 1]
    assert all(width > 0 for width in log["widths"])


@needs_chromium
def test_its_script_runs_under_its_own_policy(report: Path, tmp_path: Path) -> None:
    page = dumped(report, tmp_path / "profile")
    status = re.search(r'<p id="status"[^>]*>([^<]*)</p>', page)
    assert status is not None
    assert status[1] == f"{len(found(report))} instances in 3 of 3 images"
