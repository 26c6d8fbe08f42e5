"""Structured logs: one JSON object a line, on standard error. What is bound to a job stands on each of its lines."""

import logging
import sys
import traceback
import warnings

import structlog

from coread.errors import CoreadError


def configure_logs() -> None:
    """Send structlog's and the libraries' log lines to standard error, as JSON with a UTC time."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _traceback_without_values,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=structlog.processors.JSONRenderer(),
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    handler.addFilter(_quotes_no_header)


def warn_at_terminal() -> None:
    """For a command at a terminal: our warnings and errors alone, on standard error, beside the answer on output."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _traceback_without_values,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def quiet_libraries() -> None:
    """For a command at a terminal: leave out what the DICOM libraries say about single values. They quote them."""
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom|monai|torch)\b")
    for name in ("pydicom", "highdicom", "pynetdicom"):
        logging.getLogger(name).addHandler(logging.NullHandler())


QUOTING = frozenset({"pydicom", "pynetdicom", "highdicom", "py"})
"""Loggers ("py" has Python's warnings) whose lines quote values from headers, and headers are patient data."""


def _quotes_no_header(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] not in QUOTING


def _traceback_without_values(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Where it broke and the type of what was raised. A foreign exception's text may quote a DICOM header, so only
    our own errors' texts are kept.
    """
    raised = line.pop("exc_info", None)
    error = sys.exc_info()[1] if raised is True else raised[1] if isinstance(raised, tuple) else raised
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        line["error"] = type(error).__name__ + (f": {error}" if isinstance(error, CoreadError) else "")
        line["traceback"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return line


def logger() -> structlog.stdlib.BoundLogger:
    """The logger of every part."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger("coread")
    return log
