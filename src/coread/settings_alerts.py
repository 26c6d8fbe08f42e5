"""``[[alert]]``, ``[[webhook]]`` and ``[notify]``: which findings raise a study, and who is told."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from coread.job import Priority
from coread.settings_section import EntryName, Seconds, Section

KINDS = ("class", "number", "structure", "mark")
"""What a condition may speak of: what a result JSON has under `classes`, `numbers`, `findings` and `marks`."""

COMPARISONS = ("more_than", "at_least", "less_than", "at_most")

LabelName = Annotated[str, Field(pattern=r"^coread:[A-Za-z0-9_-]{1,56}$")]
Address = Annotated[str, Field(pattern=r"^[^@\s,<>]+@[^@\s,<>]+$")]


class Condition(Section):
    """One condition of an alert. A comparison is with the probability of a class, structure's measurement or number."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    of_class: str | None = Field(default=None, alias="class")
    """A class of a classifier, by its name, or by the code or meaning of its finding or answer."""
    answer: str | None = None
    """Of a class: the answer that is meant, by code or meaning; by default any but Absent."""
    number: str | None = None
    """A number of the study as a whole."""
    structure: str | None = None
    """A structure that the model segments."""
    measurement: str | None = None
    """Of a structure: what was measured of it."""
    phase: str | None = None
    """Of a structure: in which phase of a cine; by default in any."""
    present: bool | None = None
    """Of a structure: whether it was found; by default it must be."""
    mark: str | None = None
    """A box or a landmark."""
    more_than: float | None = None
    """The value is more than this."""
    at_least: float | None = None
    """The value is this or more."""
    less_than: float | None = None
    """The value is less than this."""
    at_most: float | None = None
    """The value is this or less."""
    unit: str | None = None
    """UCUM, of a measurement or number: one in another unit meets no condition."""

    @property
    def kind(self) -> str:
        """What it speaks of, one of ``KINDS``."""
        return next(kind for kind in KINDS if self.about(kind) is not None)

    def about(self, kind: str) -> str | None:
        """The name of what it speaks of, if it is of this kind."""
        name: str | None = self.of_class if kind == "class" else getattr(self, kind)
        return name

    @property
    def comparisons(self) -> dict[str, float]:
        """Comparison → value."""
        found = {name: getattr(self, name) for name in COMPARISONS}
        return {name: value for name, value in found.items() if value is not None}

    @model_validator(mode="after")
    def _speaks_of_one_thing(self) -> Self:
        named = [kind for kind in KINDS if self.about(kind) is not None]
        if len(named) != 1:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {', '.join(named) or 'none'}")
        kind = named[0]
        belongs = {"answer": "class", "measurement": "structure", "phase": "structure", "present": "structure"}
        for key, of in belongs.items():
            if getattr(self, key) is not None and kind != of:
                raise ValueError(f"{key} is of a {of}, found a {kind}")
        self._compares_what_can_be_compared(kind)
        return self

    def _compares_what_can_be_compared(self, kind: str) -> None:
        is_measured = kind == "number" or self.measurement is not None
        if is_measured and not (self.comparisons and self.unit):
            raise ValueError(f"a measurement or number needs a unit and one of {', '.join(COMPARISONS)}")
        if kind == "structure" and not is_measured and self.comparisons:
            raise ValueError("a comparison of a structure needs the measurement that is compared")
        if self.unit is not None and not is_measured:
            raise ValueError("a unit is of a measurement or number; a probability has none")
        if self.present is False and is_measured:
            raise ValueError("of a structure that is not there nothing was measured")
        if not is_measured and any(not 0 <= value <= 1 for value in self.comparisons.values()):
            raise ValueError("expected a probability from 0 to 1")


class AlertSettings(Section):
    """``[[alert]]``: a finding that raises its study."""

    name: EntryName
    """For people, and in what is sent."""
    model: str
    """Whose results are looked at."""
    when: Annotated[tuple[Condition, ...], Field(min_length=1)]
    """One condition, or a list: all must hold."""
    priority: Literal[Priority.STAT, Priority.ROUTINE] | None = None
    """What the study's jobs that wait are raised to, and those that it gets later; never one that a person set."""
    label: LabelName | None = None
    """A label that the study gets in Orthanc, such as `coread:pneumothorax`."""
    webhooks: tuple[EntryName, ...] = ()
    """Which `[[webhook]]` are told."""
    email: tuple[Address, ...] = ()
    """Who gets an e-mail."""

    @field_validator("when", mode="before")
    @classmethod
    def _may_be_one(cls, when: Any) -> Any:
        return [when] if isinstance(when, dict) else when

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.priority or self.label or self.webhooks or self.email):
            raise ValueError(f"alert {self.name} does nothing; expected priority, label, webhooks or email")
        return self


class WebhookSettings(Section):
    """``[[webhook]]``: a program that is told by HTTP."""

    name: EntryName
    """The name by which alerts call it."""
    url: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")]
    """Where the message is posted; no password stands in it."""
    secret: Annotated[SecretStr, Field(min_length=16)]
    """The key of the signature, HMAC-SHA256."""


class NotifySettings(Section):
    """``[notify]``: how people and programs are told."""

    link: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """The page of a study, with `{orthanc_id}` or `{StudyInstanceUID}`; by default no link is sent."""
    timeout_s: Seconds = 10.0
    """How long a webhook or mail server may take to answer."""
    retry_delay_s: Seconds = 5.0
    """The wait before the second attempt; it doubles with each further one, up to ten minutes."""
    give_up_s: Seconds = 86_400.0
    """For so long it is tried."""
    smtp_host: str | None = None
    """The mail server; without it no e-mail is sent."""
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    """The mail server's port."""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls`, `tls` from the beginning, or `none`."""
    smtp_user: str | None = None
    """User name, if the mail server asks for one."""
    smtp_password: SecretStr | None = None
    """The user's password."""
    sender: Address | None = None
    """Whom e-mails come from."""

    @model_validator(mode="after")
    def _mail_is_whole(self) -> Self:
        if (self.smtp_host is None) != (self.sender is None):
            raise ValueError("expected smtp_host and sender together, found one of them")
        if (self.smtp_user is None) != (self.smtp_password is None):
            raise ValueError("expected smtp_user and smtp_password together, found one of them")
        if self.smtp_user is not None and self.smtp_security == "none":
            raise ValueError("a password is not sent to a mail server without encryption; set smtp_security")
        return self


def check_notified(alerts: tuple[AlertSettings, ...], webhooks: tuple[WebhookSettings, ...], *, mails: bool) -> None:
    """Raises ValueError if an alert tells a webhook that there is none of, or has nobody to send its e-mails."""
    names = {webhook.name for webhook in webhooks}
    if len({alert.name for alert in alerts}) != len(alerts):
        raise ValueError("two alerts have the same name")
    for alert in alerts:
        if unknown := sorted(set(alert.webhooks) - names):
            known = ", ".join(sorted(names)) or "none"
            raise ValueError(f"alert {alert.name}: there is no webhook {unknown[0]}; there are: {known}")
        if alert.email and not mails:
            raise ValueError(f"alert {alert.name} sends e-mail; set notify.smtp_host and notify.sender")
