"""Who people are and what they may do."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a person may do; each role may do what those before it may."""

    MONITOR = "monitor"
    """Read numbers and whether all is well, and nothing of a study: a program that watches."""
    READER = "reader"
    """Look."""
    REVIEWER = "reviewer"
    """Say whether a result is right; retry, cancel and re-prioritise a job."""
    ADMIN = "admin"
    """Change anything; be a worker."""

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what the other may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who sent a request."""

    user: str
    """As they signed in; empty if Orthanc lets in everybody, whatever name they give."""
    role: Role
    name: str = ""
    """Their name for DICOM objects, of the form of a PN such as ``Doe^Anna``; empty if the settings tell none."""

    @property
    def may(self) -> tuple[str, ...]:
        """What the page offers them."""
        wanted = {
            "look": Role.READER,
            "review": Role.REVIEWER,
            "change": Role.REVIEWER,
            "administer": Role.ADMIN,
        }
        return tuple(deed for deed, role in wanted.items() if self.role.includes(role))
