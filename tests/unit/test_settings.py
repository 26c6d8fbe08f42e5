from pathlib import Path

import pytest
from pydantic import BaseModel

from coread.errors import ConfigurationError
from coread.settings import Settings, load_settings

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
    settings = load_settings(write(tmp_path, 'data_folder = "here"\n[models]\nfolders = ["mine"]\n'))
    assert settings.data_folder == tmp_path / "here"
    assert settings.models.folders == (tmp_path / "mine",)


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
        ('[[route]]\nname = "a"', "route.0.models: Field required"),
        ('[[route]]\nname = "a"\nmodels = []', "route.0.models"),
        ('[[route]]\nname = "a"\nmodels = ["m"]\nmatch = {PatientName = "x"}', "PatientName cannot be matched"),
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
