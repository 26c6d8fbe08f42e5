import json
from pathlib import Path
from typing import Any

import pytest

from coread.errors import ConfigurationError
from coread.models.allowlist import AllowList, digest_of, files_of
from tests.support import NOW


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text("{}")
    (folder / "models" / "model.pt").write_bytes(b"\x00\x01")
    return folder


@pytest.fixture
def allowed(tmp_path: Path) -> AllowList:
    return AllowList(tmp_path / "data" / "allowed.json")


def approve(allowed: AllowList, folder: Path, *, name: str = "a", **flags: bool) -> None:
    files = files_of(folder)
    allowed.allow(name, digest_of(files), files=files, at=NOW, **flags)


def test_without_a_file_nothing_is_approved(allowed: AllowList, folder: Path) -> None:
    assert allowed.entries() == ()
    with pytest.raises(ConfigurationError, match=r"a: expected a model that was approved, found none .* enable a`"):
        allowed.check("a", folder)


def test_what_was_approved_is_found_by_who_opens_the_file_later(allowed: AllowList, folder: Path) -> None:
    approve(allowed, folder, unsafe_weights=True)
    entry = AllowList(allowed.path).check("a", folder)
    assert entry.files == files_of(folder)
    assert (entry.at, entry.unsafe_weights, entry.torchscript) == (NOW, True, False)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("configs/inference.json", "{ }", "configs/inference.json changed"),
        ("models/model.pt", None, "models/model.pt removed"),
        ("evil.py", "", "evil.py added"),
    ],
)
def test_a_file_that_is_not_as_it_was_approved_is_named(
    allowed: AllowList, folder: Path, file: str, content: str | None, said: str
) -> None:
    approve(allowed, folder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        allowed.check("a", folder)
    assert f"found {said} since" in str(raised.value)
    assert "approve it again with `coread models enable a`" in str(raised.value)


def test_a_file_that_moved_is_not_the_file_that_was_approved(allowed: AllowList, folder: Path) -> None:
    approve(allowed, folder)
    (folder / "models" / "model.pt").rename(folder / "model.pt")
    with pytest.raises(ConfigurationError, match=r"model\.pt added since"):
        allowed.check("a", folder)


@pytest.mark.parametrize("odd", ["link", "__pycache__"])
def test_a_link_or_byte_code_is_refused_although_the_rest_is_as_it_was(
    allowed: AllowList, folder: Path, odd: str
) -> None:
    approve(allowed, folder)
    if odd == "link":
        (folder / odd).symlink_to("configs")
    else:
        (folder / odd).mkdir()
    with pytest.raises(ConfigurationError, match=odd):
        allowed.check("a", folder)


def test_approving_again_replaces_and_forbidding_removes(allowed: AllowList, folder: Path) -> None:
    approve(allowed, folder, name="b")
    approve(allowed, folder, torchscript=True)
    approve(allowed, folder)
    assert [(entry.name, entry.torchscript) for entry in allowed.entries()] == [("a", False), ("b", False)]
    allowed.forbid("a")
    assert [entry.name for entry in allowed.entries()] == ["b"]
    with pytest.raises(ConfigurationError, match="found b in"):
        allowed.forbid("a")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"models": [{"name": "a"}]}', b'{"other": 1}', b"\xff"])
def test_a_damaged_list_approves_nothing_and_says_so(allowed: AllowList, content: bytes) -> None:
    allowed.path.parent.mkdir()
    allowed.path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="found a damaged file"):
        allowed.entries()


def test_an_entry_whose_hashes_are_none_is_damage(allowed: AllowList, folder: Path) -> None:
    approve(allowed, folder)
    content: dict[str, Any] = json.loads(allowed.path.read_text())
    content["models"][0]["files"]["models/model.pt"] = ""
    allowed.path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=r"models\.0\.files\.models/model\.pt"):
        allowed.check("a", folder)


def test_a_list_that_cannot_be_written_stays_as_it_was(allowed: AllowList, folder: Path) -> None:
    allowed.path.mkdir(parents=True)  # a folder in its place
    with pytest.raises(ConfigurationError, match="cannot be read"):
        approve(allowed, folder)
    (allowed.path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        allowed._write(())
    assert list(allowed.path.parent.iterdir()) == [allowed.path]


def test_other_users_may_read_the_list_and_no_other_file_is_left(allowed: AllowList, folder: Path) -> None:
    approve(allowed, folder)
    assert allowed.path.stat().st_mode & 0o777 == 0o644
    assert list(allowed.path.parent.iterdir()) == [allowed.path]


def test_files_are_named_from_the_bundles_folder_in_order(folder: Path) -> None:
    files = files_of(folder)
    assert list(files) == ["configs/inference.json", "models/model.pt"]
    assert files["configs/inference.json"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_the_digest_changes_with_every_name_and_hash_but_not_with_the_order() -> None:
    files = {"a": "1" * 64, "b": "2" * 64}
    assert digest_of(files) == digest_of(dict(reversed(files.items())))
    others = [{"a": "2" * 64, "b": "1" * 64}, {"a": "1" * 64}, {"a": "1" * 64, "c": "2" * 64}]
    assert len({digest_of(files), *map(digest_of, others)}) == 4
