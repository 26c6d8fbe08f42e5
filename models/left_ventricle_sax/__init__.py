"""Left ventricle on short-axis cardiac MR: a MONAI bundle with its manifest, model card and training code."""
