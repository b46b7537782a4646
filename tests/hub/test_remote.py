"""The Hugging Face Hub, played by a server on loopback."""

import pytest

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.hub import places as hub_places
from medsam_adapt.hub import repository as hub
from medsam_adapt.hub.places import FILES, LocalFolder, place_of
from medsam_adapt.hub.repository import pull, push
from tests.hub.runs import ALL_FILES, same_weights
from tests.hub.server import hub as hub_server


@pytest.fixture
def server(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs pip install medsam-adapt[hub]")
    with hub_server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        yield running


def test_to_the_hub_and_back(run, server, tmp_path):
    place = place_of("hf://owner/liver-adapter")
    place.refuse_other_files(overwrite=False)
    push(run, place)
    (created,) = server.created
    assert created.get("private") or created.get("visibility") == "private"  # by the library's version
    files = server.repositories["owner/liver-adapter"]
    assert sorted(files) == sorted([".gitattributes", *(name for name in ALL_FILES if name != "statistics.json")])
    assert b"adapters pull hf://owner/liver-adapter --output" in files["README.md"]
    files |= {"planted.py": b"1/0", "statistics.json": b'{"classes": {}}'}
    server.asked.clear()
    assert pull(place, tmp_path / "pulled")
    assert same_weights(run, tmp_path / "pulled")
    assert not any("planted" in asked or "gitattributes" in asked for asked in server.asked)
    with pytest.raises(InputError, match=r"contains other files \(planted.py\)"):
        place.refuse_other_files(overwrite=True)
    del files["planted.py"]
    with pytest.raises(InputError, match="already contains an adapter"):
        place.refuse_other_files(overwrite=False)
    place.refuse_other_files(overwrite=True)
    push(run, place)
    assert "statistics.json" not in files  # of the adapter before


def test_what_the_hub_has_not_or_refuses_is_a_sentence(run, server, tmp_path):
    with pytest.raises(InputError, match="hf://owner/nothing: it does not exist or is private"):
        pull(place_of("hf://owner/nothing"), tmp_path / "pulled")
    server.repositories["owner/other"] = {"config.json": b"{}"}
    with pytest.raises(InputError, match=r"it has no medsam_adapt.json"):
        pull(place_of("hf://owner/other"), tmp_path / "pulled")
    with pytest.raises(InputError, match="has no revision 'v9'"):
        pull(place_of("hf://owner/other@v9"), tmp_path / "pulled")
    server.repositories["owner/large"] = dict.fromkeys(FILES, b"") | {"run.json": b" " * ((4 << 20) + 1)}
    with pytest.raises(InputError, match=r"run.json of hf://owner/large: it has 4,194,305 bytes"):
        pull(place_of("hf://owner/large"), tmp_path / "pulled")
    assert not any("resolve" in asked for asked in server.asked)  # nothing was fetched to find that out
    with pytest.raises(InputError, match=r'"license" is odd.*Use another --license'):
        push(run, place_of("hf://owner/new"), licence="odd")
    server.answers = b"<html>log in to the network</html>"
    with pytest.raises(RunError, match="the answer did not come from the hub"):
        pull(place_of("hf://owner/other"), tmp_path / "pulled")
    server.answers, server.refuses = None, True
    with pytest.raises(RunError, match=r"refused .* \(status 403\)\. Log in"):
        push(run, place_of("hf://owner/new"))  # which is there by now
    with pytest.raises((RunError, InputError), match="Log in"):
        push(run, place_of("hf://owner/newer"))


def test_no_connection_is_a_sentence(run, server, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="hf://owner/name: the hub cannot be reached"):
        pull(place_of("hf://owner/name"), tmp_path / "pulled")
    with pytest.raises(RunError, match="cannot be reached"):
        push(run, place_of("hf://owner/name"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="Check the connection and HF_HUB_OFFLINE"):
        pull(place_of("hf://owner/name"), tmp_path / "pulled")


@pytest.mark.parametrize(
    "text", ["hf://owner", "hf://owner/name/more", "https://example.org/x", "hf://../x", "hf:///a"]
)
def test_addresses_that_are_none(text):
    with pytest.raises(InputError, match=r"Give a folder, or hf://OWNER/NAME\[@REVISION\]"):
        place_of(text)


def test_the_library_that_is_missing_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(hub_places.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "medsam-adapt\[hub\]"'):
        place_of("hf://owner/name")
    assert place_of("folder") == LocalFolder(hub.Path("folder"))
