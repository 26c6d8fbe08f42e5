"""Training of the chest X-ray model: ``python -m coread.models.chest_xray_pneumonia.train``."""

from coread import threads  # noqa: F401  # before torch is loaded
