import pytest

from no_time_to_train.configs.splits import SPLITS, VOC_TO_COCO, resolve_split
from no_time_to_train.errors import UnknownNameError


def test_coco_has_eighty_classes_in_the_order_of_their_ids() -> None:
    names = resolve_split("coco80")
    assert len(names) == len(set(names)) == 80
    # Ids 1, 10, 90 and a few between, by their place: 12, 26, 29 and 30 are among the ids that COCO left out.
    assert [names[i] for i in (0, 9, 10, 11, 24, 39, 62, 79)] == [
        *("person", "traffic light", "fire hydrant", "stop sign", "backpack", "bottle", "tv", "toothbrush")
    ]


def test_novel_and_base_are_parts_of_coco() -> None:
    novel, base = resolve_split("coco_fewshot_novel20"), resolve_split("coco_fewshot_base60")
    assert (len(novel), len(base)) == (20, 60)
    assert set(novel) | set(base) == set(resolve_split("coco80"))
    assert set(novel) == set(VOC_TO_COCO.values())
    assert novel[:3] == ("person", "bicycle", "car")
    assert novel[-2:] == ("dining table", "tv")


def test_folds_are_interleaved_and_cover_coco() -> None:
    folds = [resolve_split(f"coco20i_fold{fold}") for fold in range(4)]
    assert [len(fold) for fold in folds] == [20] * 4
    assert sorted(name for fold in folds for name in fold) == sorted(resolve_split("coco80"))
    assert folds[0][:3] == ("person", "airplane", "boat")
    assert folds[1][-1] == "teddy bear"
    assert folds[3][-1] == "toothbrush"


@pytest.mark.parametrize(
    ("number", "novel"),
    [
        (1, "bird bus cow motorbike sofa"),
        (2, "aeroplane bottle cow horse sofa"),
        (3, "boat cat motorbike sheep sofa"),
    ],
)
def test_voc_novel_and_base_are_parts_of_voc(number: int, novel: str) -> None:
    assert resolve_split(f"voc_novel_split{number}") == tuple(novel.split())
    base = resolve_split(f"voc_base_split{number}")
    assert len(base) == 15
    assert {*base, *novel.split()} == set(VOC_TO_COCO)


def test_voc_names_lead_to_coco_names() -> None:
    assert len(VOC_TO_COCO) == 20
    assert set(VOC_TO_COCO.values()) <= set(SPLITS["coco80"])
    renamed = {voc: coco for voc, coco in VOC_TO_COCO.items() if voc != coco}
    assert sorted(renamed) == ["aeroplane", "diningtable", "motorbike", "pottedplant", "sofa", "tvmonitor"]
    assert (VOC_TO_COCO["sofa"], VOC_TO_COCO["tvmonitor"]) == ("couch", "tv")


def test_an_unknown_split_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownNameError, match=r"'coco_novel20', did you mean coco_fewshot_novel20\?") as caught:
        resolve_split("coco_novel20")
    assert all(name in str(caught.value) for name in SPLITS)
    with pytest.raises(UnknownNameError, match="no split is called ''"):
        resolve_split("")
