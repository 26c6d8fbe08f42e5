"""Training of the hippocampus model: ``python -m coread.models.hippocampus_t1.train``."""

from coread import before_torch  # noqa: F401  # before torch is loaded
