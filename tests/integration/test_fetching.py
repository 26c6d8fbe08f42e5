"""From a real Orthanc to a volume: the same as from the files, and what is said where Orthanc has none."""

import io
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless

from coread.archive import KEPT_OPEN, Archive
from coread.errors import ArchiveUnavailable, SourceGone
from coread.orthanc_process import free_port
from coread.workers.images import ScannedImage, read_image
from coread.workers.stack import Stack
from coread.workers.study import Series, study_in_archive
from coread.workers.volume import SourceVolume, build_volume
from tests.orthanc_alone import plain_orthanc
from tests.support import images_of, volume_in_plane

LOGIN = ("coread", "a:password")
SHAPE = (9, 40, 30)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An Orthanc that asks who it is and compresses what it keeps."""
    folder = tmp_path_factory.mktemp("orthanc")
    with plain_orthanc(folder, login=LOGIN, StorageCompression=True) as url, Archive(url, auth=LOGIN) as archive:
        yield archive


def file_of(image: Dataset) -> bytes:
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def stored(archive: Archive, images: Sequence[Dataset]) -> Series:
    """The one series that the images are of, in Orthanc, where they come in any order."""
    for image in random.Random(5).sample(list(images), len(images)):
        archive.store(file_of(image))
    study_id = archive.find_study(str(images[0].StudyInstanceUID))
    assert study_id is not None
    (series,) = study_in_archive(archive, study_id).series
    return series


def assert_same(one: SourceVolume, other: SourceVolume) -> None:
    assert np.array_equal(one.volume.array, other.volume.array)
    assert np.array_equal(one.volume.affine, other.volume.affine)
    assert [each.image.SOPInstanceUID for each in one.planes] == [each.image.SOPInstanceUID for each in other.planes]


def a_series(name: str, modality: str = "CT") -> list[Dataset]:
    return images_of(volume_in_plane("oblique", shape=SHAPE), name=name, modality=modality)


def test_no_idle_connection_is_used_when_orthanc_may_be_closing_it(archive: Archive) -> None:
    kept = str(archive._http.get("/system").headers["Keep-Alive"])  # such as timeout=1
    assert KEPT_OPEN.keepalive_expiry is not None
    assert KEPT_OPEN.keepalive_expiry <= float(kept.partition("=")[2]) / 2


@pytest.mark.parametrize("implicit", [False, True])
def test_what_is_fetched_is_what_was_sent_and_is_not_copied(archive: Archive, *, implicit: bool) -> None:
    images = a_series(f"native {implicit}")
    for image in images:
        image.RescaleIntercept = "-1024"
        if implicit:
            image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    loaded = stored(archive, images).load()
    assert [image.SOPInstanceUID for image in loaded] == sorted(image.SOPInstanceUID for image in images)
    built = build_volume(loaded)
    assert_same(built, build_volume(images))
    assert built.volume.array.dtype == np.int16
    for index, plane in enumerate(built.planes):
        assert isinstance(plane.image, ScannedImage)
        assert plane.image.pixels is not None
        assert np.shares_memory(built.volume.array[index], plane.image.pixels.array)
    by_uid = {image.SOPInstanceUID: image for image in images}
    for image in loaded:
        assert image.PixelData == by_uid[image.SOPInstanceUID].PixelData


def test_headers_of_any_length_are_fetched(archive: Archive) -> None:
    images = a_series("long")
    for image, length in zip(images, (10, 7000, 8000, 8100, 8200, 60_000, 70_000, 600_000, 3_000_000), strict=True):
        image.private_block(0x0029, "COREAD TEST", create=True).add_new(0x10, "OB", bytes(length))
    loaded = stored(archive, images).load()
    assert all(isinstance(image, ScannedImage) for image in loaded)
    assert_same(build_volume(loaded), build_volume(images))


def test_compressed_images_are_fetched_beside_others(archive: Archive) -> None:
    images = a_series("compressed")
    expected = build_volume(a_series("compressed"))
    for image in images[3:]:
        image.compress(JPEGLSLossless, generate_instance_uid=False)
    assert_same(build_volume(stored(archive, images).load()), expected)


def test_an_instance_that_was_deleted_meanwhile_is_said_to_be_gone(archive: Archive) -> None:
    images = a_series("deleted")
    series = stored(archive, images)
    archive.delete_instance(str(archive.find_instance(images[4].SOPInstanceUID)))
    with pytest.raises(SourceGone, match="it was deleted; send the study again to have it read"):
        series.load()


def test_a_wrong_password_is_an_answer_that_was_not_expected(archive: Archive) -> None:
    series = stored(archive, a_series("password"))
    with Archive(str(archive._http.base_url), auth=("coread", "wrong")) as stranger:
        ids = [str(archive.find_instance(image.SOPInstanceUID)) for image in series.load()]
        with pytest.raises(ArchiveUnavailable, match="Orthanc answered 401"):
            stranger.read_files(ids, lambda _index, file: file.read())


def test_a_password_in_the_url_is_said_when_files_are_fetched_too(archive: Archive) -> None:
    (image, *_) = a_series("url")
    instance = archive.store(file_of(image))
    url = archive._http.base_url.copy_with(username=LOGIN[0], password=LOGIN[1])
    with Archive(str(url)) as same:
        assert same.metadata(instance)
        assert same.read_files([instance], lambda _index, file: file.size) == [len(file_of(image))]


def test_the_last_group_of_an_address_is_no_port() -> None:
    with Archive("http://[::1]") as archive, pytest.raises(ArchiveUnavailable) as raised:
        archive.read_files(["a"], lambda _index, file: file.read())
    assert "refused" in str(raised.value) or "assign" in str(raised.value)


class Careless(ThreadingHTTPServer):
    """Answers everything with some bytes, says that they are so many (None: says not how many), and then closes the
    connection without having said so.
    """

    def __init__(self, content: bytes, promised: int | None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.promised = content, promised

    @contextmanager
    def running(self) -> Iterator[Archive]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with Archive(f"http://127.0.0.1:{self.server_port}") as archive:
                yield archive
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Careless

    def do_GET(self) -> None:  # the name that http.server wants
        self.send_response(200)
        if self.server.promised is not None:
            self.send_header("Content-Length", str(self.server.promised))
            self.end_headers()
            self.wfile.write(self.server.content)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.server.content), self.server.content))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def first_image(archive: Archive) -> Dataset:
    """What is read of several answers, the first of them."""
    ids = [str(number) for number in range(9)]
    stack = Stack([((), ())] * len(ids))
    return archive.read_files(ids, lambda index, file: read_image(file, "a file", stack, index))[0]


@pytest.mark.parametrize("kept", [0, 100, 200, 1000, -100, -1])
def test_an_answer_that_is_cut_short_is_no_file_that_is_cut_short(kept: int) -> None:
    whole = file_of(a_series("short")[0])
    with Careless(whole[:kept], len(whole)).running() as archive, pytest.raises(ArchiveUnavailable):
        first_image(archive)


@pytest.mark.parametrize("says_length", [True, False])
def test_connections_that_are_closed_after_an_answer_are_opened_again(*, says_length: bool) -> None:
    (image, *_) = a_series("closed")
    whole = file_of(image)
    with Careless(whole, len(whole) if says_length else None).running() as archive:
        assert first_image(archive).PixelData == image.PixelData


def test_an_orthanc_that_is_away_is_unavailable() -> None:
    with (
        Archive(f"http://127.0.0.1:{free_port()}") as archive,
        pytest.raises(ArchiveUnavailable, match="is it running"),
    ):
        archive.read_files(["a", "b"], lambda _index, file: file.read())
