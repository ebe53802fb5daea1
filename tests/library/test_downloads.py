"""Downloads from a server of this machine: checksums, licences, and what is said when it fails."""

import functools
import hashlib
import http.server
import logging
import subprocess
import sys
import threading

import pytest

from deepmr_utils.models import downloads

CONTENT = b"weights"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of one file, known by the names of two downloads; returns its folder."""
    root = tmp_path / "server"
    root.mkdir()
    (root / "file.pth").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=root)
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/file.pth"
    checksum = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    monkeypatch.setattr(
        downloads,
        "FILES",
        {
            "free.pth": downloads.Download(url, checksum, "CC-BY 3.0"),
            "bound.pth": downloads.Download(url, checksum, "non-commercial", must_accept=True),
        },
    )
    yield root
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once_and_its_licence_shown(server, tmp_path, caplog):
    path = downloads.fetch("free.pth", tmp_path / "cache")
    assert path == tmp_path / "cache" / "free.pth"
    assert path.read_bytes() == CONTENT
    assert [r.levelno for r in caplog.records if "CC-BY 3.0" in r.message] == [logging.WARNING]
    (server / "file.pth").unlink()
    caplog.clear()
    assert downloads.fetch("free.pth", tmp_path / "cache") == path
    assert not caplog.records


def test_a_restricted_licence_must_be_accepted(server, tmp_path):
    with pytest.raises(PermissionError, match=r"bound\.pth must be accepted \(non-commercial\)"):
        downloads.fetch("bound.pth", tmp_path)
    assert not (tmp_path / "bound.pth").exists()
    assert downloads.fetch("bound.pth", tmp_path, accept_licence=True).read_bytes() == CONTENT


def test_another_content_is_not_kept(server, tmp_path):
    (server / "file.pth").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"does not match the known hash"):
        downloads.fetch("free.pth", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_wrong_file_is_named_and_left_alone(server, tmp_path):
    path = tmp_path / "free.pth"
    path.write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"has the md5 .* is published: remove it"):
        downloads.fetch("free.pth", tmp_path)
    assert path.read_bytes() == b"cut short"


def test_without_a_network_it_says_what_to_do_by_hand(server, tmp_path):
    (server / "file.pth").unlink()  # the server answers 404
    with pytest.raises(ConnectionError, match=r"Get it from http://.*/file\.pth and put it at .*"):
        downloads.fetch("free.pth", tmp_path)
    nowhere = downloads.FILES["free.pth"]._replace(url="http://127.0.0.1:9/file.pth")
    downloads.FILES["free.pth"] = nowhere
    with pytest.raises(ConnectionError, match=r"put it at .*free\.pth"):
        downloads.fetch("free.pth", tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"choose one of deepsea_predict\.pth, .*bpnet\.model\.h5"):
        downloads.fetch("deepsea.pth")


def test_every_file_has_an_address_a_checksum_and_a_licence():
    digits = {"md5": 32, "sha256": 64}
    for name, file in downloads.FILES.items():
        algorithm, digest = file.checksum.split(":")
        assert len(digest) == digits[algorithm]
        assert file.url.startswith("https://")
        assert name in file.url
        assert file.licence
    restricted = [name for name, file in downloads.FILES.items() if file.must_accept]
    assert restricted == ["deepsea.beluga.pth"]


def test_models_are_loaded_when_asked_for():
    code = (
        "import sys; from deepmr_utils import models; print('torch' in sys.modules);"
        "models.DeepSEA; print('torch' in sys.modules, models.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert before == "False"
    assert after.startswith("True")
    assert "load_bpnet_oskn" in after
