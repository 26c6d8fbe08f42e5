"""What is done to every voxel, compiled: pure functions on numpy arrays that know no model, no DICOM and no torch."""
