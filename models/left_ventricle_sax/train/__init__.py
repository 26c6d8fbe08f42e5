"""Training and evaluation of the left-ventricle model: ``python -m coread.models.left_ventricle_sax.train``."""

from coread import before_torch  # noqa: F401  # before torch is loaded
