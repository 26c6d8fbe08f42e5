"""Pneumonia on a child's chest X-ray: a MONAI bundle with its manifest, model card and training code."""
