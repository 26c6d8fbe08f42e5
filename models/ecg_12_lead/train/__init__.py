"""Training of the ECG model: ``python -m coread.models.ecg_12_lead.train``."""

from coread import before_torch  # noqa: F401  # before torch is loaded
