"""How Orthanc is started with the plugin: its configuration file and its environment."""

import json
import os
import site
import socket
from pathlib import Path

from coread.errors import ConfigurationError
from coread.settings import FILE_VARIABLE, Settings

PLUGIN_SCRIPT = Path(__file__).parent / "plugin" / "entry" / "coread_orthanc.py"
PLUGINS = ("libOrthancPython.so", "libOrthancDicomWeb.so")


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def orthanc_configuration(settings: Settings) -> dict[str, object]:
    """Orthanc's configuration. HTTP answers on the loopback interface only: put a proxy with TLS in front of it."""
    storage = settings.data_folder / "orthanc"
    return {
        "Name": "Coread",
        "StorageDirectory": str(storage),
        "IndexDirectory": str(storage),
        "DicomAet": settings.orthanc.aet,
        "DicomPort": settings.orthanc.dicom_port,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "UnknownSopClassAccepted": True,
        "HttpPort": settings.orthanc.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpCompressionEnabled": False,  # compressing what a worker on this machine fetches costs 20 times the fetch
        "OverwriteInstances": False,
        "StableAge": 60,
        "MaximumStorageSize": 0,  # never recycle: a study is not ours to delete
        "Plugins": [str(find_plugin(settings, name)) for name in PLUGINS],
        "PythonScript": str(PLUGIN_SCRIPT),
        "PythonVerbose": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


def find_plugin(settings: Settings, name: str) -> Path:
    """The file of an Orthanc plugin. Raises ConfigurationError if it is not installed."""
    found = sorted(settings.orthanc.plugin_folder.glob(f"{name}*"))
    if not found:
        raise ConfigurationError(
            f"expected {name} in {settings.orthanc.plugin_folder}, found none; "
            "install Debian's orthanc-python and orthanc-dicomweb, or set orthanc.plugin_folder"
        )
    return found[0]


def write_configuration(settings: Settings) -> Path:
    """Write Orthanc's configuration file into the data folder."""
    path = settings.data_folder / "orthanc.json"
    (settings.data_folder / "orthanc").mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(orthanc_configuration(settings), indent=2), encoding="utf-8")
    return path


def child_environment(settings_file: Path | None) -> dict[str, str]:
    """The environment of Orthanc and the worker: where the settings are, and where Python's packages are."""
    named = {FILE_VARIABLE: str(settings_file.resolve())} if settings_file else {}
    return {
        **os.environ,
        **named,
        "COREAD_SITE_PACKAGES": site.getsitepackages()[0],
        "TCP_NODELAY": "1",  # DCMTK waits for acknowledgements otherwise: C-STORE is 12 times slower
        "PYTHONUNBUFFERED": "1",
    }
