"""Hippocampus on a T1 MR crop: a MONAI bundle with its manifest, model card and training code."""
