"""Findings and source images in, DICOM objects out: segmentations and structured reports.

Pure: no network, no database, no clock. The same findings of the same job give the same objects.
"""
