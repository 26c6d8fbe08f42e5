from pathlib import Path

import pytest

from coread.courier.transport import Verdict, verdict_on
from coread.errors import ConfigurationError
from coread.settings import DimseDestination, StowDestination, load_settings

PACS = '[[destination]]\nname = "my-pacs"\nprotocol = "dimse"\nhost = "h"\nport = 104\naet = "PACS"\n'
WEB = '[[destination]]\nname = "web"\nprotocol = "stow"\nurl = "https://h/dicom-web"\n'
ROUTE = '[[route]]\nname = "a"\nmodels = ["m"]\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "coread.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_destinations_are_of_two_kinds_and_routes_name_them(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, PACS + WEB + ROUTE + 'destinations = ["web", "my-pacs"]\n'))
    pacs, web = settings.destination
    assert isinstance(pacs, DimseDestination)
    assert pacs.storage_commitment
    assert isinstance(web, StowDestination)
    assert settings.route[0].destinations == ("web", "my-pacs")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PACS + ROUTE + 'destinations = ["web"]\n', "route a: there is no destination web; there are: my-pacs"),
        (ROUTE + 'destinations = ["web"]\n', "there is no destination web; there are: none"),
        (PACS + PACS.replace("my-pacs", "MY_PACS"), "two destinations have the same name"),
        (PACS.replace("dimse", "ftp"), "destination.0: Input tag 'ftp'"),
        (PACS.replace("port = 104", ""), "destination.0.dimse.port: Field required"),
        (PACS + 'url = "x"\n', "destination.0.dimse.url: Extra inputs"),
        (WEB.replace("https://h", "https://user:hush@h"), "destination.0.stow.url"),
        (WEB.replace("https://h", "https://h:port"), "destination.0.stow.url: Value error, expected a URL such as"),
        (WEB.replace("https://h", "https://a..b"), "destination.0.stow.url: Value error, expected a URL such as"),
        (WEB.replace("https://h", "https://"), "destination.0.stow.url: Value error, expected a URL with a host"),
        (WEB + 'user = "u"\n', "expected user and password together"),
        (WEB + 'user = "u"\npassword = "hush"\ntoken = "hush"\n', "found both"),
        ('[delivery]\naet = "A NAME THAT IS TOO LONG"\n', "delivery.aet"),
    ],
)
def test_a_mistake_in_a_destination_is_named_without_its_secrets(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(write(tmp_path, text))
    assert said in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_destinations_password_comes_from_the_environment_and_prints_as_stars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREAD_DESTINATION__WEB__USER", "u")
    monkeypatch.setenv("COREAD_DESTINATION__WEB__PASSWORD", "hush")
    monkeypatch.setenv("COREAD_DESTINATION__MY_PACS__PORT", "11112")
    settings = load_settings(write(tmp_path, PACS + WEB))
    pacs, web = settings.destination
    assert isinstance(pacs, DimseDestination)
    assert isinstance(web, StowDestination)
    assert web.password is not None
    assert web.password.get_secret_value() == "hush"
    assert pacs.port == 11112
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("variable", ["COREAD_DESTINATION__OTHER__PASSWORD", "COREAD_DESTINATION__WEB"])
def test_an_environment_variable_of_no_destination_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "hush")
    with pytest.raises(ConfigurationError, match=variable) as raised:
        load_settings(write(tmp_path, WEB))
    assert "hush" not in str(raised.value)


def test_the_example_of_the_how_to_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREAD_DESTINATION__RESEARCH__PASSWORD", "hush")
    page = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text(encoding="utf-8")
    settings = load_settings(write(tmp_path, page.split("```toml\n")[1].split("```")[0]))
    assert settings.route[0].destinations == ("pacs", "research")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.TAKEN),
        (0x0111, Verdict.TAKEN),
        (0xB000, Verdict.TAKEN),
        (0xB006, Verdict.TAKEN),
        (0xB007, Verdict.TAKEN),
        (0xA700, Verdict.BUSY),
        (0xA7FF, Verdict.BUSY),
        (0x0110, Verdict.BUSY),
        (0x0210, Verdict.BUSY),
        (0x0213, Verdict.BUSY),
        (0xA900, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
        (0xCFFF, Verdict.REFUSED),
        (0x0122, Verdict.REFUSED),
        (0x0124, Verdict.REFUSED),
        (0xFE00, Verdict.BUSY),
    ],
)
def test_a_status_says_whether_the_object_was_taken_refused_or_is_to_be_sent_again(
    status: int, verdict: Verdict
) -> None:
    assert verdict_on(status) is verdict
