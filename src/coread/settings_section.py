"""What the sections of the settings have in common."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

ORTHANC_USER = "coread"
"""The name under which our own processes, and other machines' workers, speak to Orthanc."""

Seconds = Annotated[float, Field(gt=0)]
ApplicationEntityTitle = Annotated[str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e ]{1,16}$")]
EntryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Section(BaseModel):
    """A table of the settings file: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DicomwebAddress(Section):
    """Where somebody's DICOMweb services are, and what we say to be let in."""

    url: Annotated[str, Field(pattern=r"^https?://[^@]+$")]
    """The root of its DICOMweb services, such as `https://pacs.example/dicom-web`; no password stands in it."""
    user: str | None = None
    """User name, if it asks for one."""
    password: SecretStr | None = None
    """The user's password."""
    token: SecretStr | None = None
    """A bearer token, instead of user and password."""

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password, if it asks for them."""
        if self.user is None or self.password is None:
            return None
        return self.user, self.password.get_secret_value()

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request: they say the token, if there is one."""
        return {"Authorization": f"Bearer {self.token.get_secret_value()}"} if self.token else {}

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError as error:
            raise ValueError("expected a URL such as https://pacs.example/dicom-web") from error
        if not host or not url.isprintable():
            raise ValueError("expected a URL with a host, such as https://pacs.example/dicom-web")
        return url

    @model_validator(mode="after")
    def _says_who_we_are_in_one_way(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("expected user and password together, found one of them")
        if self.user is not None and self.token is not None:
            raise ValueError("expected user and password, or a token, found both")
        return self
