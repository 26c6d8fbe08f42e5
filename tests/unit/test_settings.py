from pathlib import Path

import pytest
from pydantic import BaseModel

from coread.audit.syslog import Credentials
from coread.errors import ConfigurationError
from coread.orthanc_process import index_in_postgresql, orthanc_configuration
from coread.settings import Settings, load_settings
from coread.settings_dicom import SenderSettings
from tests.support import program

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def write(folder: Path, text: str) -> Path:
    path = folder / "coread.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_everything_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.data_folder == tmp_path / "coread-data"
    assert settings.ledger_url.startswith("sqlite:///")


def test_relative_folders_are_taken_from_the_file(tmp_path: Path) -> None:
    text = (
        f'data_folder = "here"\n[models]\nfolders = ["mine"]\nallowed = ["{"a" * 64}"]\n[audit]\nca_file = "ca.pem"\n'
    )
    settings = load_settings(write(tmp_path, text))
    assert settings.audit.credentials() == Credentials(ca_file=tmp_path / "ca.pem")
    assert settings.data_folder == tmp_path / "here"
    assert settings.models.folders == (tmp_path / "mine",)
    assert settings.models.allowed == frozenset({"a" * 64}), "nothing else of the section gets lost"


def test_a_folder_of_secrets_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "COREAD_ORTHANC__PASSWORD").write_text("hush\n")
    (secrets / "COREAD_ACCESS__USERS__ANNA__PASSWORD").write_text("hush, too\n")
    (secrets / "https.key").write_bytes(b"\xff")
    monkeypatch.setenv("COREAD_SECRETS", str(secrets))
    settings = load_settings(write(tmp_path, '[access.users.anna]\nrole = "reader"\n'))
    assert settings.orthanc_login == ("coread", "hush")
    assert settings.access.logins == {"anna": "hush, too"}


def test_a_secret_that_is_also_in_the_environment_or_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "")
    monkeypatch.setenv("COREAD_SECRETS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_settings(path)
    (tmp_path / "COREAD_ORTHANC__PASSWORD").write_text("hush")
    monkeypatch.setenv("COREAD_SECRETS", str(tmp_path))
    monkeypatch.setenv("COREAD_ORTHANC__PASSWORD", "hush")
    with pytest.raises(ConfigurationError, match="COREAD_ORTHANC__PASSWORD is set in the environment and by a file"):
        load_settings(path)


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREAD_ORTHANC__HTTP_PORT", "9999")
    assert load_settings(write(tmp_path, "[orthanc]\nhttp_port = 1\n")).orthanc.http_port == 9999


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data_folder = ", "not valid TOML"),
        ("colour = 1", "colour: Extra inputs are not permitted"),
        ("[orthanc]\nhttp_port = 99999", "orthanc.http_port: Input should be less than or equal to 65535"),
        ('[orthanc]\naet = "A NAME THAT IS TOO LONG"', "orthanc.aet"),
        ('[audit]\nsyslog = "loghost"', "audit.syslog: Value error, expected udp://HOST:PORT"),
        ('[[route]]\nname = "a"', "route.0.models: Field required"),
        ('[[route]]\nname = "a"\nmodels = []', "route.0.models"),
        ('[[route]]\nname = "a"\nmodels = ["m"]\nmatch = {PatientName = "x"}', "PatientName cannot be matched"),
        ('[[pacs]]\nname = "a b"\naet = "A"\nhost = "h"', "pacs.0.name"),
        (
            '[[pacs]]\nname = "a"\naet = "A"\nhost = "h"\n[[pacs]]\nname = "b"\naet = "A"\nhost = "h"',
            "two PACS have the same name or the same aet",
        ),
        (
            '[[route]]\nname = "a"\nmodels = ["m"]\nmatch = {RequestedProcedurePriority = "STAT"}',
            "RequestedProcedurePriority comes from a modality worklist",
        ),
        (
            '[[pacs]]\nname = "a"\naet = "A"\nhost = "h"\n[[worklist]]\nname = "a"\naet = "B"\nhost = "h"',
            "a worklist and a PACS, have the same name",
        ),
        ('[ups]\nmodels = { LV = "m" }', "ups.models"),
        ("[dicom_tls]\nincoming = true", "found no certificate_file, key_file, ca_file"),
        ('[dicom_tls]\ncertificate_file = "a"\nkey_file = "b"', "found no ca_file"),
        ('[[pacs]]\nname = "a"\naet = "A"\nhost = "h"\ntls = true', "a wants TLS"),
        ("[orthanc]\ncheck_sender_host = true", "needs a [[sender]]"),
        (
            '[orthanc]\ncheck_sender_host = true\n[[sender]]\nname = "a"\naet = "A"\nhost = "mr1.example"',
            "expected an IP address as host of a",
        ),
        (
            """sender = [{ name = "a", aet = "A", host = "10.0.0.1" }, { name = "b", aet = "A", host = "10.0.0.2" }]
            orthanc = { check_sender_host = true }""",
            "expected one host for the aet of a",
        ),
        (
            '[[sender]]\nname = "a"\naet = "A"\nhost = "h"\n[[pacs]]\nname = "a"\naet = "B"\nhost = "h"',
            "the same name",
        ),
        (
            '[[route]]\nname = "a"\nmodels = ["m"]\n[[route]]\nname = "a"\nmodels = ["m"]',
            "two routes have the same name",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as raised:
        load_settings(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml does not exist"):
        load_settings(tmp_path / "nowhere.toml")


def test_the_brokers_password_prints_as_stars(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, '[broker]\nurl = "redis://:hush@localhost"\n'))
    assert "hush" not in repr(settings)


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys += keys_of(nested, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


@pytest.mark.parametrize("key", keys_of(Settings))
def test_every_setting_is_documented(key: str) -> None:
    assert f"`{key}`" in DOCUMENT.read_text(encoding="utf-8")


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    example = DOCUMENT.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert load_settings(write(tmp_path, example)).route[0].name == "cardiac MR"


@pytest.mark.parametrize("key", SenderSettings.model_fields)
def test_every_key_of_a_sender_is_documented(key: str) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## Senders")[1].split("\n## ")[0]
    assert f"`{key}`" in section


def test_orthancs_index_is_where_its_url_says(tmp_path: Path) -> None:
    url = "postgresql://orthanc:p%40ss@db.example:5433/index"
    settings = load_settings(write(tmp_path, f'[orthanc]\nindex_url = "{url}"\n'))
    said = index_in_postgresql(settings)["PostgreSQL"]
    assert isinstance(said, dict)
    wanted = ("db.example", 5433, "index", "orthanc", "p@ss")
    assert tuple(said[key] for key in ("Host", "Port", "Database", "Username", "Password")) == wanted
    assert (said["EnableIndex"], said["EnableStorage"]) == (True, False)


def test_a_documented_pacs_is_one_that_orthanc_can_ask(tmp_path: Path) -> None:
    program("Orthanc")
    (example,) = (
        block.split("```")[0]
        for block in DOCUMENT.read_text(encoding="utf-8").split("```toml\n")[1:]
        if "[[pacs]]" in block.split("```")[0]
    )
    settings = load_settings(write(tmp_path, example))
    modalities = orthanc_configuration(settings)["DicomModalities"]
    assert isinstance(modalities, dict)
    main = modalities["main"]
    assert (main["AET"], main["Host"], main["Port"]) == ("PACS1", "pacs.example.org", 104)
