"""The models: what a model is to Coread, how a MONAI bundle is run, and the bundles that Coread ships.

Nothing here knows DICOM objects, the archive or Celery: a volume goes in, labels come out.
"""
