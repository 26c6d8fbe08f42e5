"""Training of the chest X-ray model: ``python -m coread.models.chest_xray_pneumonia.train``."""

from coread import before_torch  # noqa: F401  # before torch is loaded
