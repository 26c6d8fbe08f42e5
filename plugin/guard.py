"""Who sends a request, and why it is refused: pure functions of its headers and of the settings.

Orthanc has checked passwords by then; header names are in small letters. Orthanc takes ``GET …?_method=delete`` and
``X-HTTP-Method-Override`` for the other method, so ``method`` is always what would be done.
"""

import base64
import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from coread.access import Person, Role
from coread.settings_access import PROXY_USER, AccessSettings
from coread.settings_section import ORTHANC_USER

Headers = Mapping[str, str]

LOOKS = frozenset({"GET", "HEAD"})

LOOKING_POSTS = re.compile(r"/tools/(find|lookup|bulk-content|count-resources)")
"""What of Orthanc's own REST is a POST and only looks."""

STOW = re.compile(r"/dicom-web/studies(/[0-9.]{1,64})?")
"""Where a viewer stores what a person drew or wrote."""

TYPES_OF_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""Content types that a page of any site may send anywhere without being asked (Fetch, "CORS-safelisted")."""

BROWSER = "Mozilla/"
"""How the User-Agent of every browser begins."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is not let through."""

    reason: str
    status: int = 403


def needed_role(method: str, path: str) -> Role:
    """The role that a request to Orthanc's own REST, or to DICOMweb, needs. What is not known needs an admin's."""
    if method in LOOKS or (method == "POST" and LOOKING_POSTS.fullmatch(path)):
        return Role.READER
    if method == "POST" and STOW.fullmatch(path):
        return Role.REVIEWER
    return Role.ADMIN


def login_of(headers: Headers) -> tuple[str, str]:
    """User and password of a request; both empty if it states none."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.casefold() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(credentials).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password


def person_of(headers: Headers, access: AccessSettings, *, tokens: Collection[str]) -> Person | None:
    """Who sends a request that Orthanc let in; None if nobody is named whom we know how to judge.

    ``tokens``: values of the Authorization header by which the plugin speaks to Orthanc itself.
    """
    if headers.get("authorization") in tokens:
        return Person(user="", role=Role.ADMIN)
    user, password = login_of(headers)
    if not access.uses_roles or user == ORTHANC_USER:
        return Person(user=user, role=Role.ADMIN)
    if user == PROXY_USER:
        return _person_behind_proxy(headers, access) if is_proxy(password, access) else None
    return _known_person(user, access, groups=()) if user else None


def is_proxy(password: str, access: AccessSettings) -> bool:
    """Whether the proxy's password is right, so that its headers count. It takes as long whatever is wrong with it."""
    expected = access.proxy_secret.get_secret_value() if access.proxy_secret else ""
    return bool(expected) and hmac.compare_digest(password.encode(), expected.encode())


def _person_behind_proxy(headers: Headers, access: AccessSettings) -> Person | None:
    user = headers.get((access.proxy_user_header or "").lower(), "").strip()
    named = headers.get(access.proxy_roles_header.lower(), "") if access.proxy_roles_header else ""
    # A user of this name would be taken for ourselves in the audit trail.
    if not user or user in (ORTHANC_USER, PROXY_USER):
        return None
    return _known_person(user, access, groups=[group.strip() for group in named.split(",")])


def _known_person(user: str, access: AccessSettings, *, groups: Collection[str]) -> Person:
    """The settings' word on a person goes before that of their groups."""
    if entry := access.users.get(user):
        return Person(user=user, role=entry.role, name=entry.name)
    roles = [access.proxy_roles[group] for group in groups if group in access.proxy_roles]
    return Person(user=user, role=max(roles, key=list(Role).index, default=access.role))


def foreign_page(method: str, headers: Headers, *, host: str, origins: Collection[str]) -> Refusal | None:
    """Why a request is not let through that would change something and that a page of another site has a browser send.

    ``host``: the name and port under which the browser called. A program that is no browser sends none of the headers
    that are looked at. A browser always sends one of the first two with a request that changes something; if it has
    neither, then a page has it send one that Orthanc turns into another method.
    """
    if method in LOOKS:
        return None
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and origin in origins:
        return None
    if site is not None:
        is_ours = site in ("same-origin", "none")
    elif origin is not None:
        is_ours = _place(origin)[0] != "" and _place(origin) == _place(f"//{host}")
    else:
        is_ours = not headers.get("user-agent", "").startswith(BROWSER)
    if is_ours:
        return None
    return Refusal(
        reason="a page of another site must not change anything here; if it may, name its origin in access.origins, "
        "and behind a reverse proxy pass the browser's Host on"
    )


def _place(url: str) -> tuple[str, int | None]:
    """Host and port of a URL; a scheme's own port counts as none, since a proxy in between may change the scheme."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", None
    return (parts.hostname or "").casefold(), None if port in (80, 443) else port


def strange_host(headers: Headers, *, hosts: frozenset[str]) -> Refusal | None:
    """Why a request is not let through where nobody is asked for a password: it calls this machine by a strange name.

    A page of any site can have its own name lead to this machine (DNS rebinding), and is then of our origin for the
    browser. An address cannot be misused so, and nobody else has the names in ``hosts``.
    """
    if (host := headers.get("host")) is None or _is_known_host(host, hosts):
        return None
    return Refusal(
        reason="Orthanc was called by a name that is not known to be this machine's; call it localhost or by its "
        "address, name it in access.hosts, or set orthanc.password"
    )


@lru_cache(maxsize=256)
def _is_known_host(host: str, hosts: frozenset[str]) -> bool:
    name, _ = _place(f"//{host}")
    name = name.rstrip(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost") or name in hosts
    return True


def form_body(headers: Headers, *, has_body: bool) -> Refusal | None:
    """Why a body is not taken: it is of a type that a page of another site may send with a form."""
    kind = headers.get("content-type", "").partition(";")[0].strip().casefold()
    if has_body and kind in TYPES_OF_FORMS:
        return Refusal(reason=f"expected a body of Content-Type application/json, found {kind}", status=415)
    return None
