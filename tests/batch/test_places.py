"""Where an image's entry and overlay go, whatever the image is called."""

import os

import pytest

from no_time_to_train.batch.places import place_of


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.jpg", "a.jpg.json"),
        ("deeper/ünï.jpg", "deeper/ünï.jpg.json"),
        ("a.jpg.json/a.jpg", "a.jpg.json~/a.jpg.json"),
        ("a.jpg.json~/b.json/a.jpg", "a.jpg.json~~/b.json~/a.jpg.json"),
        ("a.json.d/a.json", "a.json.d/a.json.json"),
    ],
)
def test_places_are_told_apart(name: str, place: str) -> None:
    assert str(place_of(name, ".json")) == place


@pytest.mark.parametrize("letter", ["a", "ü", "画", os.fsdecode(b"\xe9")])
def test_no_name_gets_too_long(letter: str) -> None:
    places = set()
    for length in range(240, 256):
        count = length // len(os.fsencode(letter))
        for name in (letter * count, "b" + letter * (count - 1)):
            place = place_of(f"{name}/{name}", ".json")
            assert place.parts[0] == name
            assert len(os.fsencode(place.name)) <= 255
            assert place.name.endswith(".json")
            places.add((name, place))
    assert len({place for _, place in places}) == len(places)


def test_a_long_folder_with_the_ending_is_shortened() -> None:
    folders = ["a" * 250 + ".json", "b" + "a" * 249 + ".json"]
    places = {place_of(f"{folder}/a.jpg", ".json").parts[0] for folder in folders}
    assert len(places) == 2
    assert all(len(place) <= 255 and not place.endswith(".json") for place in places)
