"""The plugin never waits for a lock of Orthanc's with the interpreter lock in its hand.

Orthanc asks the plugin about each image with its lock for services in its hand, and waits for the interpreter lock. A
service that takes that lock, asked for meanwhile, stops Orthanc for good.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

import coread.plugin
from coread.plugin.facts import dictionary_of
from coread.plugin.route_table import RouteTable
from coread.plugin.service import Service
from coread.settings import load_settings
from tests.orthanc_at_start import OrthancAtStart

ENUMERATIONS = {"ChangeType", "HttpMethod", "OrthancException", "ResourceType"}
FREE = {"GetConfiguration", "GetGlobalProperty", "LookupDictionary", "SetGlobalProperty"}
"""Orthanc answers them without its lock for services (``InvokeSafeService`` of its OrthancPlugins.cpp)."""
AT_START = {
    "GenerateRestApiAuthorizationToken",
    "RegisterIncomingCStoreInstanceFilter",
    "RegisterIncomingHttpRequestFilter",
    "RegisterOnChangeCallback",
    "RegisterRestCallback",
}
"""Orthanc takes the lock for them; at the start it does not take images yet."""


def test_the_token_is_made_once_and_before_orthanc_takes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "coread.toml"
    file.write_text('data_folder = "data"\n')
    monkeypatch.setenv("COREAD_CONFIG", str(file))
    assert load_settings(file).data_folder == tmp_path / "data"
    orthanc = OrthancAtStart()
    plugin = Service(orthanc, RouteTable(file, dictionary=dictionary_of(orthanc)))
    plugin.register()
    assert orthanc.asked["GenerateRestApiAuthorizationToken"] == 1
    orthanc.asked.clear()
    tokens = set()
    for _ in range(3):
        with plugin._connect() as archive:
            tokens.add(archive._headers["Authorization"])
    assert orthanc.asked == Counter()
    assert tokens == {"GenerateRestApiAuthorizationToken 1"}


def test_nothing_else_of_orthancs_module_is_used_than_what_was_looked_at() -> None:
    used = {
        node.attr
        for path in Path(coread.plugin.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("orthanc", "self._orthanc")
    }
    assert used - ENUMERATIONS - FREE - AT_START == set()
    assert used >= AT_START
