"""How Orthanc is started with the plugin: its configuration file, its environment, and its start alone."""

import ctypes
import fcntl
import json
import os
import signal
import site
import socket
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from shutil import which
from typing import IO

from sqlalchemy import make_url

from coread.errors import ConfigurationError
from coread.logs import logger
from coread.settings import FILE_VARIABLE, PacsSettings, Settings
from coread.settings_dicom import SenderSettings
from coread.settings_worklist import WorklistSettings
from coread.watchdog import HUNG, watchdog_of

PLUGIN_SCRIPT = Path(__file__).parent / "plugin" / "entry" / "coread_orthanc.py"
PLUGINS = ("libOrthancPython.so", "libOrthancDicomWeb.so")
INDEX_PLUGIN = "libOrthancPostgreSQLIndex.so"
POSTGRESQL_PORT = 5432
LOOK_S = 0.2
SIGNALLED = 128
"""What a shell adds to the number of the signal that has ended a process."""
PR_SET_PDEATHSIG = 1
PRCTL = ctypes.CDLL(None).prctl
"""Looked up here: between fork and exec, another thread may hold whatever that needs."""
ANYTHING = frozenset({"store", "find", "get", "move"})


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def orthanc_configuration(settings: Settings) -> dict[str, object]:
    """Orthanc's configuration. Unless told otherwise, HTTP answers on the loopback interface only: put a proxy with TLS
    in front of it.
    """
    storage = settings.data_folder / "orthanc"
    return {
        "Name": "Coread",
        "StorageDirectory": str(storage),
        "IndexDirectory": str(storage),
        "DicomAet": settings.orthanc.aet,
        "DicomPort": settings.orthanc.dicom_port,
        **who_may_speak_dicom(settings),
        **dicom_tls(settings),
        "UnknownSopClassAccepted": True,
        "HttpPort": settings.orthanc.http_port,
        "RemoteAccessAllowed": settings.orthanc.remote_access,
        "AuthenticationEnabled": settings.orthanc_login is not None,
        "RegisteredUsers": registered_users(settings),
        "HttpCompressionEnabled": False,  # compressing what a worker on this machine fetches costs 20 times the fetch
        "OverwriteInstances": True,  # an image that was corrected under its old UID must not be dropped in silence
        "StableAge": 60,
        "MaximumStorageSize": 0,  # never recycle: a study is not ours to delete
        "Plugins": [str(find_plugin(settings, name)) for name in plugins(settings)],
        "PythonScript": str(PLUGIN_SCRIPT),
        "PythonVerbose": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **index_in_postgresql(settings),
    }


def who_may_speak_dicom(settings: Settings) -> dict[str, object]:
    """Orthanc's list of application entities. Without a ``[[sender]]``, anybody may send studies; with one, only those
    that are listed may do anything, and each only what it is there for.
    """
    is_closed = bool(settings.sender)
    entities: list[tuple[SenderSettings | PacsSettings | WorklistSettings, frozenset[str]]] = [
        *((each, frozenset(each.may)) for each in settings.sender),
        *((each, ANYTHING) for each in settings.pacs),
        *((each, frozenset()) for each in settings.worklist),
    ]
    # Orthanc looks only at the first that it finds by a title, and a PACS may be the worklist, too.
    rights: dict[str, frozenset[str]] = {}
    for entity, may in entities:
        rights[entity.aet] = rights.get(entity.aet, frozenset()) | may
    return {
        "DicomAlwaysAllowEcho": not is_closed,
        "DicomAlwaysAllowStore": not is_closed,
        "DicomCheckCalledAet": settings.orthanc.check_called_aet,
        "DicomCheckModalityHost": settings.orthanc.check_sender_host,
        "DicomModalities": {entity.name: _modality(entity, may=rights[entity.aet]) for entity, _ in entities},
    }


def _modality(
    entity: SenderSettings | PacsSettings | WorklistSettings, *, may: Collection[str]
) -> dict[str, str | int | bool]:
    return {
        "AET": entity.aet,
        "Host": entity.host,
        "Port": entity.port,
        "UseDicomTls": entity.tls,
        "AllowEcho": True,
        "AllowStore": "store" in may,
        "AllowFind": "find" in may,
        "AllowFindWorklist": False,
        "AllowGet": "get" in may,
        "AllowMove": "move" in may,
        "AllowStorageCommitment": "store" in may,
    }


def dicom_tls(settings: Settings) -> dict[str, object]:
    """What Orthanc shows of us over TLS and whom it trusts, as a server and as a client."""
    tls = settings.dicom_tls
    if not tls.is_set:
        return {"DicomTlsEnabled": False}
    return {
        "DicomTlsEnabled": tls.incoming,
        "DicomTlsCertificate": str(tls.certificate_file),
        "DicomTlsPrivateKey": str(tls.key_file),
        "DicomTlsTrustedCertificates": str(tls.ca_file),
        "DicomTlsRemoteCertificateRequired": tls.require_client_certificate,
    }


def plugins(settings: Settings) -> tuple[str, ...]:
    """The plugins of Orthanc that are needed."""
    return (*PLUGINS, INDEX_PLUGIN) if settings.orthanc.index_url else PLUGINS


def index_in_postgresql(settings: Settings) -> dict[str, object]:
    """Where Orthanc's index is, if that is PostgreSQL. The images stay files in the data folder."""
    if settings.orthanc.index_url is None:
        return {}
    url = make_url(settings.orthanc.index_url.get_secret_value())
    return {
        "PostgreSQL": {
            "EnableIndex": True,
            "EnableStorage": False,
            "Host": url.host,
            "Port": url.port or POSTGRESQL_PORT,
            "Database": url.database,
            "Username": url.username or "",
            "Password": url.password or "",
            "EnableSsl": url.query.get("sslmode", "disable") != "disable",
        }
    }


def registered_users(settings: Settings) -> dict[str, str]:
    """User → password of those whom Orthanc lets in. Raises ConfigurationError if somebody could not sign in."""
    access = settings.access
    if access.proxy_user_header is None:
        for user, each in access.users.items():
            if each.password is None:
                raise ConfigurationError(
                    f"access.users.{user} has no password, and no reverse proxy tells who people are; set "
                    f"access.users.{user}.password, in the file or in the environment, or access.proxy_user_header"
                )
    login = settings.orthanc_login
    return {**(dict([login]) if login else {}), **access.logins}


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
    path.touch(mode=0o600)  # it may hold the password
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


def find_orthanc(settings: Settings) -> str:
    """The Orthanc program. Raises ConfigurationError if it is not installed."""
    found = which(settings.orthanc.executable)
    if found is None:
        raise ConfigurationError(
            f"expected Orthanc as {settings.orthanc.executable} on the PATH, found none; install Debian's orthanc"
        )
    return found


def lock_data_folder(data_folder: Path) -> IO[str]:
    """Keep others from running Orthanc in a data folder, as long as the file is open.

    Raises ConfigurationError if another one does.
    """
    data_folder.mkdir(parents=True, exist_ok=True)
    lock = (data_folder / "up.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigurationError(
            f"another `coread up` or `coread orthanc` runs in {data_folder}; stop it, or set another data_folder"
        ) from error
    return lock


def run_orthanc(settings: Settings, *, settings_file: Path | None) -> int:
    """``coread orthanc``: run Orthanc with the plugin until it ends, by itself or because it or we are told to.

    Its exit status, as a shell has it, or 1 if it hung and was killed: a container or service starts again then.
    Raises ConfigurationError if it cannot be started.
    """
    program = find_orthanc(settings)
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: told.append(received))
    signal.signal(signal.SIGHUP, lambda _received, _frame: None)  # a terminal that is closed ends no service
    with lock_data_folder(settings.data_folder) as lock:
        process = subprocess.Popen(
            [program, str(write_configuration(settings))],
            env=child_environment(settings_file),
            pass_fds=[lock.fileno()],  # if we are killed, Orthanc holds it until it has ended
            start_new_session=True,  # a Ctrl-C reaches us alone: of a second signal Orthanc would end at once
            preexec_fn=die_with_parent,
        )
        watchdog = watchdog_of(settings)
        watchdog.start()
        while not watchdog.is_hung:
            if (status := process.poll()) is not None:
                return status if status >= 0 else SIGNALLED - status
            if told and not watchdog.is_stopped:
                watchdog.stop()  # one that ends does not answer either
                process.send_signal(told[0])
            time.sleep(LOOK_S)  # a wait with a time limit would look every 50 ms
        logger().error(HUNG, process="orthanc")
        process.kill()
        process.wait()
    return 1


def die_with_parent() -> None:
    """In a new process: have it end with its parent, even if that is killed; nobody would stop it, and it has ports."""
    PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
