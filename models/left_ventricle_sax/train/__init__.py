"""Training and evaluation of the left-ventricle model: ``python -m coread.models.left_ventricle_sax.train``."""
