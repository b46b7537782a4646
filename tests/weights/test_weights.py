"""Pretrained weights: what a name stands for, and downloads over connections, servers and disks that fail."""

import dataclasses
import errno
import hashlib
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.methods import LoRA
from medsam_adapt.networks import build_sam, build_segmenter, build_teacher
from medsam_adapt.networks.sam import weights_sha256
from medsam_adapt.weights import WEIGHTS, download, import_file, local_path, resolve, store, verify
from medsam_adapt.weights import http as transfer
from medsam_adapt.weights.backbones import VARIANTS
from tests.weights.weights_server import serving

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several blocks
NAME = "sam_vit_b"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty folder of weights, and no waiting between attempts."""
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE", 0)
    return tmp_path / "home"


@pytest.fixture
def published(monkeypatch):
    """Change the registry's entry of the weights NAME."""

    def change(**values):
        monkeypatch.setitem(WEIGHTS, NAME, dataclasses.replace(WEIGHTS[NAME], **values))

    change(size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest(), file_name="weights.pth")
    return change


@pytest.fixture
def server(published):
    with serving(CONTENT) as running:
        published(url=running.url)
        yield running


def files_in(home):
    return sorted(path.name for path in (home / "weights").iterdir())


def test_a_download_is_whole_checked_and_recorded(server, home):
    reported = []
    path = download(NAME, lambda done, total: reported.append((done, total)))
    assert path == home / "weights" / "weights.pth" == local_path(NAME)
    assert path.read_bytes() == CONTENT
    assert reported[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)
    assert json.loads((home / "weights" / "known.json").read_text()) == {NAME: file_sha256(path)}
    assert files_in(home) == ["known.json", "weights.pth"]
    assert download(NAME) == path
    assert len(server.asked) == 1
    download(NAME, overwrite=True)
    assert len(server.asked) == 2


def test_a_dropped_connection_goes_on_where_it_broke_off(server):
    half = len(CONTENT) // 2
    server.cuts = [half, 1000]
    assert download(NAME).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + 1000}-"]


def test_a_connection_that_drops_time_and_again_leaves_its_bytes_for_the_next_command(server, home):
    server.cuts = [70_000] + [0] * transfer.ATTEMPTS
    with pytest.raises(RunError, match=r"broke off after 70000 of 1048576 bytes\. Run the command again to continue"):
        download(NAME)
    assert files_in(home) == ["weights.pth.part"]
    server.cuts = []
    assert download(NAME).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=70000-"
    assert files_in(home) == ["known.json", "weights.pth"]


def test_a_server_without_ranges_starts_over(server):
    server.ranges = False
    server.cuts = [len(CONTENT) // 2]
    assert download(NAME).read_bytes() == CONTENT
    assert server.asked[1] is not None


def test_a_server_without_ranges_that_always_drops_is_given_up(server):
    server.ranges = False
    server.cuts = [1000] * 100
    with pytest.raises(RunError, match="broke off after 1000 of"):
        download(NAME)
    assert len(server.asked) == transfer.ATTEMPTS


def test_a_server_that_tells_no_length(server):
    server.tells_length = False
    assert download(NAME).read_bytes() == CONTENT


def test_a_complete_part_is_not_fetched_again(server, home):
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "weights.pth.part").write_bytes(CONTENT)
    assert download(NAME).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_longer_than_the_file_starts_over(server, home, published, size):
    published(size=size)
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "weights.pth.part").write_bytes(CONTENT + b"more")
    assert download(NAME).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server):
    server.answers = [503, 429]
    assert download(NAME).read_bytes() == CONTENT


def test_a_missing_file_is_told_at_once(server):
    server.answers = [404]
    with pytest.raises(RunError, match=r"the server answers 404 \(Not Found\).*weights import weights\.pth"):
        download(NAME)
    assert len(server.asked) == 1


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_another_content_is_deleted(server, home, published, size):
    published(size=size)
    server.content = CONTENT[::-1]
    with pytest.raises(RunError, match=r"not the published file .* was deleted\. Run 'medsam-adapt weights download"):
        download(NAME)
    assert files_in(home) == []


def test_a_failed_renewal_keeps_the_file_that_was_there(server):
    path = download(NAME)
    server.content = CONTENT[::-1]
    with pytest.raises(RunError):
        download(NAME, overwrite=True)
    assert path.read_bytes() == CONTENT


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, home):
    server.content = CONTENT + b"more"
    with pytest.raises(RunError, match="a file of 1048580 bytes, not the published one of 1048576"):
        download(NAME)
    assert files_in(home) == []


def test_redirects_are_followed(server, published):
    server.redirects = {"/moved": server.url}
    server.cuts = [1000]
    published(url=server.url.replace("/file", "/moved"))
    assert download(NAME).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000-"  # the file's own server gets the range too


@pytest.mark.parametrize("elsewhere", ["http://example.org/weights.pth", "file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_redirects_to_unsafe_addresses_are_not(server, published, elsewhere):
    server.redirects = {"/moved": elsewhere}
    published(url=server.url.replace("/file", "/moved"))
    with pytest.raises(RunError, match=r"not a safe address|not allowed"):
        download(NAME)


def test_plain_http_is_refused(published):
    published(url="http://example.org/weights.pth")
    with pytest.raises(RunError, match="not a safe address"):
        download(NAME)


def test_no_connection_is_told_at_once_with_the_way_round(published):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    published(url=f"http://127.0.0.1:{port}/file")
    with pytest.raises(RunError) as caught:
        download(NAME)
    sentence = str(caught.value)
    assert "no connection to 127.0.0.1 (Connection refused)" in sentence
    assert f"fetch weights.pth from {WEIGHTS[NAME].page}" in sentence
    assert "medsam-adapt weights import weights.pth" in sentence


def test_a_full_disk_while_writing_leaves_nothing(server, home, monkeypatch):
    def write_and_fill_up(url, part, size, progress):
        part.write_bytes(CONTENT[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "fetch", write_and_fill_up)
    with pytest.raises(RunError, match=r"has no space for the 1 MB of sam_vit_b\. Free some, or set MEDSAM_ADAPT_HOME"):
        download(NAME)
    assert files_in(home) == []


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A real disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "none", folder]).returncode:
        pytest.skip("a small disk cannot be mounted here: that needs root")
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(folder))
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up(server, small_disk, published):
    published(size=None)  # nothing warns beforehand
    with pytest.raises(RunError, match=r"has no space\. Free some"):
        download(NAME)
    assert files_in(small_disk) == []


def test_a_disk_that_is_too_small_is_told_before_the_download(server, small_disk):
    with pytest.raises(RunError, match="has no space for the 1 MB"):
        download(NAME)
    assert server.asked == []


def test_a_disk_that_fills_up_in_an_import(small_disk, tmp_path, published):
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    with pytest.raises(RunError, match="has no space for the 1 MB"):
        import_file(tmp_path / "mine.pth")
    assert files_in(small_disk) == []


def test_a_home_that_cannot_be_written_to(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written to .*\. Set MEDSAM_ADAPT_HOME"):
        download(NAME)


def test_weights_that_are_fetched_by_hand_only(published):
    published(url=None)
    with pytest.raises(InputError, match=r"no program can download it\. Fetch weights\.pth from https://"):
        download(NAME)
    with pytest.raises(InputError, match=r"not on this machine\. Fetch weights\.pth from https://"):
        resolve(NAME, "vit_b")


def test_import_knows_a_file_by_its_content(published, home, tmp_path):
    (tmp_path / "renamed.bin").write_bytes(CONTENT)
    path = import_file(tmp_path / "renamed.bin")
    assert path == home / "weights" / "weights.pth" == resolve(NAME, "vit_b")
    assert verify(NAME) == (hashlib.sha256(CONTENT).hexdigest(), "published")


@pytest.mark.parametrize("name", [NAME, None])
def test_import_refuses_a_damaged_copy(published, home, tmp_path, name):
    (tmp_path / "weights.pth").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(
        InputError, match=r"weights\.pth: it is not sam_vit_b, with SHA-256 .* instead of the published"
    ):
        import_file(tmp_path / "weights.pth", name)
    assert not home.exists()


@pytest.fixture(scope="module")
def nano_file(tmp_path_factory):
    """Weights of a vit_nano that nobody published."""
    path = tmp_path_factory.mktemp("nano") / "nano.pth"
    torch.save(build_sam("vit_nano", 64).state_dict(), path)
    return path


def test_import_knows_unpublished_weights_by_their_size_and_backbone(published, nano_file):
    with pytest.raises(
        InputError, match=r"vit_nano weights that are none of the published ones.* --checkpoint .*pth\.$"
    ):
        import_file(nano_file)
    published(sha256=None, size=None, backbone="vit_nano")
    with pytest.raises(InputError, match=r"none of the published ones.* name it with --name \(sam_vit_b\)"):
        import_file(nano_file)  # nothing distinguishes them from other weights of this backbone
    published(sha256=None, size=nano_file.stat().st_size, backbone="vit_nano")
    assert import_file(nano_file) == resolve(NAME, "vit_nano")
    assert verify(NAME).source == "recorded"
    resolve(NAME, "vit_nano").write_bytes(b"damaged")
    with pytest.raises(RunError, match="is damaged"):
        verify(NAME)


def test_import_refuses_unpublished_weights_of_another_backbone(published, nano_file):
    published(sha256=None)
    with pytest.raises(InputError, match="holds vit_nano weights but sam_vit_b is vit_b"):
        import_file(nano_file, NAME)


def test_import_refuses_what_it_need_not_have_or_cannot_read(shipped_nano, tmp_path):
    with pytest.raises(InputError, match="sam_nano: it is part of the package"):
        import_file(local_path("sam_nano"))
    with pytest.raises(InputError, match="does not exist"):
        import_file(tmp_path / "nowhere.pth")
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(InputError, match=r"page\.pth"):
        import_file(tmp_path / "page.pth")


def test_the_first_use_records_what_nobody_published(published, home):
    published(sha256=None)
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "weights.pth").write_bytes(CONTENT)
    (home / "weights" / "known.json").write_text("damaged {")
    assert [verify(NAME).source for _ in range(2)] == ["new", "recorded"]


def test_the_registry_is_sound():
    for name, weights in WEIGHTS.items():
        assert weights.name == name
        assert weights.shipped or weights.requirement or weights.url.startswith("https://")
        assert weights.sha256 is None or len(weights.sha256) == 64
        assert weights.backbone in VARIANTS


def test_resolve(shipped_nano, tmp_path):
    (tmp_path / "mine.pth").touch()
    assert resolve(None, "vit_nano") == resolve("sam_nano", "vit_nano") == local_path("sam_nano")
    assert resolve(None, "vit_b") is None
    assert resolve("random", "vit_nano") is None
    assert (
        resolve(tmp_path / "mine.pth", "vit_b") == resolve(str(tmp_path / "mine.pth"), "vit_b") == tmp_path / "mine.pth"
    )


@pytest.mark.parametrize(
    ("value", "backbone", "sentence"),
    [
        ("sam_vit_h", "vit_h", "not on this machine. Run 'medsam-adapt weights download sam_vit_h'"),
        ("sam_vit_h", "vit_b", "sam_vit_h: these weights are vit_h but the backbone is vit_b. Use --backbone vit_h"),
        ("sam_nano", "vit_b", "Use --backbone vit_nano, or vit_b weights"),
        ("sam_vitb", "vit_b", "sam_vitb: this checkpoint does not exist. Did you mean 'sam_vit_b'? Give the path"),
        (
            "nowhere.pth",
            "vit_b",
            "nowhere.pth: this checkpoint does not exist. Give the path of a SAM or MedSAM weights file, one of",
        ),
    ],
)
def test_resolve_refuses(shipped_nano, value, backbone, sentence):
    with pytest.raises(InputError) as caught:
        resolve(value, backbone)
    assert sentence in str(caught.value)


def test_a_missing_shipped_file_means_random_weights(shipped_nano, monkeypatch):
    monkeypatch.setattr(store, "files", lambda package: Path("nowhere"))
    assert resolve(None, "vit_nano") is None
    with pytest.raises(InputError, match="Install medsam-adapt again"):
        resolve("sam_nano", "vit_nano")


def trains_the_encoder(segmenter):
    return segmenter.sam.image_encoder.pos_embed.requires_grad


def test_a_segmenter_starts_from_what_ships(shipped_nano, home):
    shipped = build_segmenter("vit_nano", 64, 2, LoRA(4))
    assert shipped.base_sha256 == build_segmenter("vit_nano", 64, 2, LoRA(4), checkpoint="sam_nano", seed=5).base_sha256
    random = build_segmenter("vit_nano", 64, 2, LoRA(4), checkpoint="random")
    assert random.base_sha256 != shipped.base_sha256
    assert trains_the_encoder(random)  # small as it is, by default
    assert not trains_the_encoder(build_segmenter("vit_nano", 64, 2, LoRA(4), tune_encoder=False))
    assert not home.exists()


def test_a_teacher_starts_from_what_ships(shipped_nano):
    teacher = build_teacher("vit_nano", 64)
    assert weights_sha256(teacher.sam) == weights_sha256(build_sam("vit_nano", 64, checkpoint="sam_nano"))
    assert weights_sha256(teacher.sam) != weights_sha256(build_teacher("vit_nano", 64, checkpoint="random").sam)


def test_a_sam_is_built_from_a_name_but_not_by_default():
    with pytest.raises(InputError, match="weights download sam_vit_b"):
        build_sam("vit_b", 64, checkpoint="sam_vit_b")
    torch.manual_seed(0)
    random = build_sam("vit_nano", 64)
    torch.manual_seed(0)
    assert weights_sha256(random) == weights_sha256(build_sam("vit_nano", 64, checkpoint="random"))
