"""Names that other programs, text files and file systems take."""

import os

import pytest

from no_time_to_train.results.formats.names import class_folders, plain_names, with_ending


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("photo 1.jpg", "photo 1.jpg"),
        ("Größe/北京.jpg", "Größe/北京.jpg"),
        # Lists are read without comments and outer spaces.
        ("#1.jpg", "_1.jpg"),
        (" a .jpg", "_a_.jpg"),
        # Programs for Windows take it for a slash.
        ("a\\b.jpg", "a_b.jpg"),
        ("a\nb\x07.jpg", "a_b_.jpg"),
        # Bytes that are not UTF-8.
        ("a\udcff.jpg", "a_.jpg"),
        ("images/labels/a.jpg", "images_/labels_/a.jpg"),
        ("photo", "photo"),
    ],
)
def test_what_programs_take_stays(name: str, written: str) -> None:
    assert plain_names([name], [".txt"], ["images", "labels"]) == [written]


def test_names_stay_distinct() -> None:
    names = ["a\n.jpg", "a_.jpg", "a_.png", "b\x01/x.jpg", "b_/x.jpg"]
    written = plain_names(names, [".json"])
    assert written[0] == "a_.jpg"
    assert len({with_ending(name, ".json") for name in written}) == len(names)


def test_a_folder_may_be_called_as_a_file_would_be() -> None:
    assert plain_names(["a.jpg", "a.json/b.jpg", "a.png/b.jpg"], [".json", ".png"]) == [
        "a.jpg",
        "a.json~/b.jpg",
        "a.png~/b.jpg",
    ]


def test_names_fit_with_either_ending() -> None:
    names = ["ü" * 125 + ".jpg", "ü" * 125 + "x.jpg", "y" * 255 + "/a.jpg"]
    written = plain_names(names, [".geojson"])
    assert len(set(written)) == 3
    for name in written:
        parts = [*name.split("/"), with_ending(name, ".geojson").split("/")[-1]]
        assert max(len(os.fsencode(part)) for part in parts) <= 255


def test_classes_get_folders_of_their_own() -> None:
    names = ["red apple", "a/b", "a\\b", "..", "", "x.", 'quo"te', "ö" * 200, "A/B"]
    folders = class_folders(names)
    assert folders[:3] == ["red apple", "a_b", "a_b_2"]
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert folder
        assert not set(folder) & set('/\\<>:"|?*')
        assert not folder.endswith((".", " "))
        assert len(os.fsencode(folder)) <= 255
