"""``[access]``: who may do what over HTTP, and from where."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from coread.access import Role
from coread.settings_section import ORTHANC_USER, Section

PROXY_USER = "coread-proxy"
"""The name under which a reverse proxy signs in at Orthanc, to tell who people are."""

UserName = Annotated[str, Field(pattern=r"^[^:\x00-\x1f\x7f]{1,64}$")]
PersonName = Annotated[str, Field(pattern=r"^[^\\=\x00-\x1f\x7f]{0,64}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Origin = Annotated[str, Field(pattern=r"^https?://[^/@\s]+$")]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")]


class UserSettings(Section):
    """``[access.users.NAME]``: a person."""

    role: Role = Role.READER
    """`monitor` reads metrics and health alone; `reader` looks; `reviewer` besides accepts, rejects, retries, cancels
    and prioritises; `admin` does anything."""
    name: PersonName = ""
    """Name in DICOM objects (PN), such as `Doe^Anna`: whoever accepts a result needs one."""
    password: SecretStr | None = None
    """What they must say to Orthanc; not needed where a reverse proxy tells who they are."""


class AccessSettings(Section):
    """``[access]``: who may do what over HTTP, and from where."""

    users: dict[UserName, UserSettings] = Field(default_factory=dict)
    """User name → person."""
    role: Role = Role.READER
    """The role of a user who is known to Orthanc or to the proxy, and of whom nothing else tells it."""
    proxy_secret: SecretStr | None = None
    """The password with which a reverse proxy signs in as `coread-proxy`. Its headers count with this only."""
    proxy_user_header: HeaderName | None = None
    """The header in which the proxy says who somebody is, such as `Remote-User`."""
    proxy_roles_header: HeaderName | None = None
    """The header in which it says to which groups they belong, separated by commas, such as `Remote-Groups`."""
    proxy_roles: dict[str, Role] = Field(default_factory=dict)
    """Group → role; the highest counts."""
    origins: tuple[Origin, ...] = ()
    """Other origins whose pages may change something here, such as `https://viewer.example`."""
    hosts: tuple[HostName, ...] = ()
    """Further names of this machine under which Orthanc may be called where it asks nobody for a password."""

    @field_validator("users")
    @classmethod
    def _leaves_our_names_to_us(cls, users: dict[str, UserSettings]) -> dict[str, UserSettings]:
        if taken := sorted({ORTHANC_USER, PROXY_USER} & set(users)):
            raise ValueError(f"the user name {taken[0]} is Coread's own; choose another")
        return users

    @model_validator(mode="after")
    def _proxy_is_whole(self) -> Self:
        if (self.proxy_user_header is None) != (self.proxy_secret is None):
            raise ValueError("expected proxy_user_header and proxy_secret together, found one of them")
        if (self.proxy_roles_header is not None or self.proxy_roles) and self.proxy_user_header is None:
            raise ValueError("proxy_roles_header and proxy_roles need proxy_user_header and proxy_secret")
        if (self.proxy_roles_header is None) != (not self.proxy_roles):
            raise ValueError("expected proxy_roles_header and proxy_roles together, found one of them")
        return self

    @property
    def uses_roles(self) -> bool:
        """Whether people are told apart; otherwise whoever gets in is an admin."""
        return bool(self.users) or self.proxy_user_header is not None

    @property
    def logins(self) -> dict[str, str]:
        """User → password of those who sign in at Orthanc itself, the proxy among them."""
        people = {user: each.password.get_secret_value() for user, each in self.users.items() if each.password}
        proxy = {PROXY_USER: self.proxy_secret.get_secret_value()} if self.proxy_secret else {}
        return people | proxy
