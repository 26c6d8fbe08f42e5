"""Normal or not, on a 12-lead ECG: a MONAI bundle with its manifest, model card and training code."""
