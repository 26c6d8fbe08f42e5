"""The gate before every REST route, ours and Orthanc's: who asks, whether they may, and from where they come."""

import re
from collections.abc import Callable, Collection, Mapping
from traceback import extract_tb
from typing import Any

from coread.access import Person as Person
from coread.access import Role as Role
from coread.errors import TransientError
from coread.logs import logger
from coread.plugin.answers import answer, asked_of, can_be_looked_up
from coread.plugin.denials import Denial
from coread.plugin.guard import (
    LOOKS,
    Headers,
    Refusal,
    foreign_page,
    form_body,
    is_proxy,
    login_of,
    needed_role,
    person_of,
    strange_host,
)
from coread.settings_access import PROXY_USER, AccessSettings

Handler = Callable[..., None]
"""Answers a request: ``handler(output, url, **request)``, with the ``person`` who asks. Its ``get`` is decoded."""

METHODS = ("GET", "POST", "PUT", "DELETE")
"""The methods that Orthanc tells a filter by number; HEAD comes as GET."""


LOOKERS = 1000
"""So many pairs of login and host are remembered of those that may look."""


def _ignore(_denial: Denial) -> None:
    pass


class Gate:
    """Registers routes with Orthanc, and lets through who may."""

    def __init__(
        self,
        orthanc: Any,
        *,
        asks_users: bool,
        access: AccessSettings | None = None,
        hosts: Collection[str] = (),
        tokens: Collection[str] = (),
        note_denial: Callable[[Denial], None] = _ignore,
    ) -> None:
        """``asks_users``: whether Orthanc lets in only users that it knows. ``hosts``: further names of this machine.
        ``tokens``: values of the Authorization header by which the plugin itself may ask Orthanc anything.
        ``note_denial``: is told of each request that was not let through.
        """
        self._orthanc = orthanc
        self._asks_users = asks_users
        self._access = access or AccessSettings()
        self._hosts = frozenset(host.casefold() for host in (*self._access.hosts, *hosts))
        self._note_denial = note_denial
        self._tokens = tokens
        self.routes: dict[str, Mapping[str, Role]] = {}
        """Path → method → role of the routes that are registered."""
        self.registered: dict[str, Mapping[str, tuple[Role, Handler]]] = {}
        """The same with the handler, for `coread.plugin.openapi`."""
        self._lookers: set[tuple[str | None, str | None]] = set()
        self._ours: re.Pattern[str] | None = None

    def route(self, path: str, **handlers: tuple[Role, Handler]) -> None:
        """Register a path (a regular expression) with a handler for each method, and the role that the method needs.

        A handler's docstring says what it does, and `coread.plugin.explained` what it takes and answers.
        Other methods are answered 405, people without the role and other sites' pages 403. A neighbour that is away is
        answered 503, and an error that nobody foresaw 500.
        """

        def checked(output: Any, url: str, **request: Any) -> None:
            method = request["method"]
            if method not in handlers:
                output.SendMethodNotAllowed(",".join(handlers))
                return
            needed, handler = handlers[method]
            headers = request.get("headers", {})
            person = self.person(headers)
            refusal = self._refusal(method, headers, person, needed) or form_body(
                headers, has_body=bool(request.get("body"))
            )
            if refusal or person is None:
                refusal = refusal or _of_nobody()
                self._deny(method, path, person, refusal)
                answer(output, {"error": refusal.reason}, status=refusal.status)
                return
            asked = asked_of(request)
            if not can_be_looked_up(asked):
                error = "expected texts as parameters, found U+0000 or half of a surrogate pair in one"
                answer(output, {"error": error}, status=400)
                return
            try:
                handler(output, url, **{**request, "person": person, "get": asked})
            except TransientError as error:
                logger().warning("request not answered", route=url, reason=str(error))
                answer(output, {"error": str(error)}, status=503)
            except Exception as error:  # noqa: BLE001  # what nobody foresaw must not reach Orthanc's log with its values
                where = [f"{frame.name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
                logger().error("request failed", route=path, error=type(error).__name__, where=where)
                answer(output, {"error": "unexpected; this is a mistake of Coread's"}, status=500)

        self.routes[path] = {method: role for method, (role, _handler) in handlers.items()}
        self.registered[path] = handlers
        self._ours = None
        self._orthanc.RegisterRestCallback(path, checked)

    def guard_everything(self) -> None:
        """Have Orthanc ask the gate about each request, whatever it is for: its own REST, DICOMweb, other plugins."""
        names = {int(getattr(self._orthanc.HttpMethod, name)): name for name in METHODS}
        get = int(self._orthanc.HttpMethod.GET)

        def allows(uri: str, **request: Any) -> bool:
            headers = request["headers"]
            # Once for each image of a study that is fetched: what is asked most often is answered first.
            if request["method"] == get and self._may_look(headers):
                return True
            method = names[int(request["method"])]
            if headers.get("authorization") in self._tokens:
                return True
            if self._is_ours(uri):  # its route judges, and says why
                return True
            person = self.person(headers)
            refusal = self._refusal(method, headers, person, needed_role(method, uri))
            if refusal is None:
                return True
            self._deny(method, uri, person, refusal)
            return False

        self._orthanc.RegisterIncomingHttpRequestFilter(allows)

    def _may_look(self, headers: Headers) -> bool:
        """Whether a request that changes nothing is let through: what the rest of the gate would say, in less time of
        one whose like it has judged before.
        """
        said = (headers.get("authorization"), headers.get("host"))
        if said in self._lookers:
            return True
        if self._refusal("GET", headers, self.person(headers), Role.READER):
            return False
        user, _ = login_of(headers)
        if user != PROXY_USER and len(self._lookers) < LOOKERS:
            self._lookers.add(said)
        return True

    def person(self, headers: Headers) -> Person | None:
        """Who sends a request; None if nobody is named whom we know how to judge."""
        if not self._asks_users:
            return Person(user="", role=Role.ADMIN)
        return person_of(headers, self._access, tokens=self._tokens)

    def _refusal(self, method: str, headers: Headers, person: Person | None, needed: Role) -> Refusal | None:
        if not self._asks_users and (refusal := strange_host(headers, hosts=self._hosts)):
            return refusal
        if method not in LOOKS:
            host = self._host_called(headers)
            if refusal := foreign_page(method, headers, host=host, origins=self._access.origins):
                return refusal
        if person is None:
            return _of_nobody()
        if not person.role.includes(needed):
            return Refusal(reason=f"this needs the role {needed}; {person.user} has the role {person.role}")
        return None

    def _host_called(self, headers: Headers) -> str:
        """The host that the browser called, which a proxy may have replaced and tells then."""
        user, password = login_of(headers)
        if self._asks_users and user == PROXY_USER and is_proxy(password, self._access):
            return headers.get("x-forwarded-host") or headers.get("host", "")
        return headers.get("host", "")

    def _is_ours(self, path: str) -> bool:
        if self._ours is None:
            self._ours = re.compile("|".join(f"(?:{each})" for each in self.routes) or r"(?!)")
        return self._ours.fullmatch(path.rstrip("/") or "/") is not None

    def _deny(self, method: str, path: str, person: Person | None, refusal: Refusal) -> None:
        user = person.user if person else ""
        self._note_denial(Denial(user=user, method=method, path=path, reason=refusal.reason))


def _of_nobody() -> Refusal:
    return Refusal(
        reason="it is not known who asks: expected a user of Orthanc's, or one whom the reverse proxy names in "
        "access.proxy_user_header"
    )
