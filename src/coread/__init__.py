"""Coread reads every study along with the radiologist: DICOM in, segmentations and structured reports out."""

__version__ = "0.1.0"

MANUFACTURER = "Coread"
"""The Manufacturer of every object that Coread writes. Archives keep it with the series, so that our own results are
known from their header and never start a job."""
