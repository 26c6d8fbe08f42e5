from pathlib import Path

import pytest

from coread.errors import ConfigurationError
from coread.retrieval.contexts import COMPRESSED, LIMIT, UNCOMPRESSED, sop_classes_of, storage_contexts
from coread.settings import load_settings
from coread.settings_sources import DicomwebSource, DimseSource, Here, find_source

PACS = '[[source]]\nname = "my-pacs"\nprotocol = "dimse"\nhost = "h"\naet = "PACS"\n'
WEB = '[[source]]\nname = "web"\nprotocol = "dicomweb"\nurl = "https://h/dicom-web"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "coread.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_sources_are_of_two_kinds_and_our_own_orthanc_is_always_one(tmp_path: Path) -> None:
    sources = load_settings(write(tmp_path, PACS + WEB)).source
    pacs, web = (find_source(name, sources) for name in ("my-pacs", "web"))
    assert isinstance(pacs, DimseSource)
    assert (pacs.port, pacs.retrieve, pacs.move_to) == (104, "move", None)
    assert isinstance(web, DicomwebSource)
    assert web.transfer_syntax == "*"
    assert find_source("here", ()) == Here()
    with pytest.raises(ConfigurationError, match="there is no source other; there are: here, my-pacs, web"):
        find_source("other", sources)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PACS + PACS.replace("my-pacs", "MY_PACS"), "two sources have the same name"),
        (PACS.replace("my-pacs", "Here"), "a source is called here"),
        (PACS + 'retrieve = "push"\n', "source.0.dimse.retrieve"),
        (PACS + 'move_to = "A NAME THAT IS TOO LONG"\n', "source.0.dimse.move_to"),
        (WEB.replace("https://h", "https://user:hush@h"), "source.0.dicomweb.url"),
        (WEB + 'user = "u"\n', "expected user and password together"),
        (WEB + 'token = "hush"\nuser = "u"\npassword = "hush"\n', "found both"),
        (WEB + 'transfer_syntax = "JPEG"\n', "source.0.dicomweb.transfer_syntax"),
    ],
)
def test_a_mistake_in_a_source_is_named_without_its_secrets(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(write(tmp_path, text))
    assert said in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_sources_token_comes_from_the_environment_and_prints_as_stars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREAD_SOURCE__WEB__TOKEN", "hush")
    monkeypatch.setenv("COREAD_SOURCE__MY_PACS__PORT", "11112")
    settings = load_settings(write(tmp_path, PACS + WEB))
    pacs, web = settings.source
    assert isinstance(pacs, DimseSource)
    assert isinstance(web, DicomwebSource)
    assert web.headers == {"Authorization": "Bearer hush"}
    assert pacs.port == 11112
    assert "hush" not in repr(settings)


def test_the_example_of_the_settings_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    settings = load_settings(write(tmp_path, page.split("## Sources")[1].split("```toml\n")[1].split("```")[0]))
    assert [source.name for source in settings.source] == ["pacs", "vna"]


def test_every_key_of_a_source_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8").split("## Sources")[1]
    keys = {*DimseSource.model_fields, *DicomwebSource.model_fields}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_each_class_may_come_as_it_is_stored_while_there_is_room() -> None:
    contexts = storage_contexts(sop_classes_of(["CT"]), room=LIMIT - 1)
    pairs = {(str(each.abstract_syntax), tuple(map(str, each.transfer_syntax))) for each in contexts}
    assert len(pairs) == len(contexts) <= LIMIT - 1
    ct = "1.2.840.10008.5.1.4.1.1.2"
    assert (ct, UNCOMPRESSED) in pairs
    assert {(ct, (syntax,)) for syntax in COMPRESSED} <= pairs


def test_many_classes_all_come_uncompressed_and_in_the_commonest_compression() -> None:
    classes = sop_classes_of([])
    contexts = storage_contexts(classes, room=LIMIT - 1)
    assert len(contexts) == LIMIT - 1
    assert {str(each.abstract_syntax) for each in contexts if len(each.transfer_syntax) > 1} == set(classes)
    assert {str(each.abstract_syntax) for each in contexts if str(each.transfer_syntax[0]) == COMPRESSED[0]}
