"""``[[viewer]]``: links from a study to viewers, with the study's own identifiers in them."""

import re
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

PLACEHOLDERS = ("StudyInstanceUID", "AccessionNumber", "PatientID", "orthanc_id")
"""What of a study may stand in a link, in curly brackets."""
IN_BRACKETS = re.compile(r"\{([^{}]*)\}")
EXPECTED = "expected http://…, https://… or a path of this server that begins with one slash"


class ViewerLink(BaseModel):
    """``[[viewer]]``: a viewer that studies are opened in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """What the link is called."""
    url: str
    """Its address, with `{StudyInstanceUID}`, `{AccessionNumber}`, `{PatientID}` or `{orthanc_id}` in it."""

    @field_validator("url")
    @classmethod
    def _leads_somewhere(cls, url: str) -> str:
        unknown = [name for name in IN_BRACKETS.findall(url) if name not in PLACEHOLDERS]
        if unknown or re.search(r"[{}]", IN_BRACKETS.sub("", url)):
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            found = f"{{{unknown[0]}}}" if unknown else "a bracket without its other one"
            raise ValueError(f"expected placeholders among {known}, found {found}")
        is_path = url.startswith("/") and not url.startswith(("//", "/\\"))
        try:
            parts = urlsplit(url)
            is_url = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError as error:
            raise ValueError(EXPECTED) from error
        if not (is_path or is_url) or not url.isprintable() or re.search(r"\s", url):
            raise ValueError(EXPECTED)
        if is_url and ("{" in parts.netloc or "@" in parts.netloc):
            raise ValueError("expected a host that is the same for every study, and no password")
        return url

    def of(self, facts: Mapping[str, str]) -> str | None:
        """The link for a study; None if it lacks what the link needs. ``facts``: placeholder → value."""
        wanted = set(IN_BRACKETS.findall(self.url))
        if any(not facts.get(name) for name in wanted):
            return None
        return IN_BRACKETS.sub(lambda found: quote(facts[found.group(1)], safe=""), self.url)
