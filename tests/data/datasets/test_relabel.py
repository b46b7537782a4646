import json

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.relabel import Changes, read_map, read_pairs, relabel

CLASSES = {1: "liver", 2: "right kidney", 3: "spleen", 4: "left kidney"}


def changed(entries, keep_others=False, classes=CLASSES, wanted=None):
    return relabel(classes, Changes(entries, keep_others, "map.json"), wanted)


def test_without_changes_all_stays():
    assert relabel(CLASSES, None) == (CLASSES, {1: 1, 2: 2, 3: 3, 4: 4})


def test_a_map_names_ids_and_drops_what_it_does_not_mention():
    assert changed({"0": "background", "1": "hepar", "3": "spleen"}) == ({1: "hepar", 3: "spleen"}, {1: 1, 3: 3})


def test_labels_are_renumbered_by_id_or_name_and_keep_their_names():
    assert changed({"3": 1, "Left_Kidney": 2}) == ({1: "spleen", 2: "left kidney"}, {3: 1, 4: 2})


def test_two_labels_become_one():
    assert changed({"left kidney": "kidney", "right kidney": "kidney"}) == ({2: "kidney"}, {2: 2, 4: 2})
    names, ids = changed({"left kidney": "kidney", "2": "kidney"}, keep_others=True)
    assert (names, ids) == ({1: "liver", 2: "kidney", 3: "spleen"}, {1: 1, 2: 2, 3: 3, 4: 2})


def test_two_labels_trade_their_ids():
    assert changed({"1": 3, "3": 1}) == ({1: "spleen", 3: "liver"}, {1: 3, 3: 1})


def test_a_label_becomes_background():
    assert changed({"liver": 0}, keep_others=True)[1] == {2: 2, 3: 3, 4: 4}


def test_wanted_classes_are_named_as_they_are_afterwards():
    assert changed({"3": "lien"}, keep_others=True, wanted=["LIEN"]) == ({3: "lien"}, {3: 3})
    with pytest.raises(InputError, match=r"no 'xyz'\. Choose from lien"):
        changed({"3": "lien"}, wanted=["xyz"])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"7": "gland"}, "there is no label '7'. Choose from 1 liver"),
        ({"livr": 1}, "there is no label 'livr'. Did you mean 'liver'"),
        ({"1": 2, "2": "kidney"}, "the label 2 would be both 'liver' and 'kidney'"),
        ({"1": "spleen", "3": 9}, "'spleen' would be the name of more than one label"),
    ],
)
def test_changes_that_do_not_fit_are_told(entries, words):
    with pytest.raises(InputError, match=words):
        changed(entries)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "is empty"),
        ({"1": -1}, "'1' would become -1"),
        ({"1": True}, "would become True"),
        ({"1": " "}, "would become ' '"),
        ([1], "JSON object"),
    ],
)
def test_a_bad_map_is_told(tmp_path, content, words):
    (tmp_path / "map.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"map\.json.*{words}"):
        read_map(tmp_path / "map.json")


def test_pairs_are_read():
    assert read_pairs(["left kidney = kidney", "3=1"]).entries == {"left kidney": "kidney", "3": 1}
    for pairs, words in ((["a"], "is not OLD=NEW"), (["=a"], "OLD=NEW"), (["a=1", "a=2"], "has 'a' twice")):
        with pytest.raises(InputError, match=words):
            read_pairs(pairs)
