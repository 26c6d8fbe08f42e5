"""The coded concepts that Coread writes by itself. Those of a model's labels stand in its package's ``coread.yaml``.

Each meaning is as PS3.16 has it, because some readers match codes by their meaning.
"""

from pydicom.sr.coding import Code

# What is measured
VOLUME = Code("118565006", "SCT", "Volume")
MASS = Code("118538004", "SCT", "Mass")
LENGTH = Code("410668003", "SCT", "Length")
DIAMETER = Code("81827009", "SCT", "Diameter")
AREA = Code("42798000", "SCT", "Area")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MR_SIGNAL_INTENSITY = Code("110852", "DCM", "MR signal intensity")

# How it was derived (CID 7464)
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
MAXIMUM = Code("56851009", "SCT", "Maximum")

# In which units, by UCUM
MILLILITER = Code("ml", "UCUM", "milliliter")
GRAM = Code("g", "UCUM", "gram")
MILLIMETER = Code("mm", "UCUM", "mm")
SQUARE_MILLIMETER = Code("mm2", "UCUM", "square millimeter")
HOUNSFIELD_UNIT = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
ARBITRARY_UNIT = Code("[arb'U]", "UCUM", "arbitrary unit")
NO_UNITS = Code("1", "UCUM", "no units")
PERCENT = Code("%", "UCUM", "Percent")

# What is said of a finding
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
PRESENT = Code("52101004", "SCT", "Present")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")
ABSENT = Code("272519000", "SCT", "Absent")
NOT_EVALUATED = Code("373121007", "SCT", "Not Evaluated")
CERTAINTY_OF_FINDING = Code("111012", "DCM", "Certainty of Finding")
COMMENT = Code("121106", "DCM", "Comment")

# What a parametric map holds (CID 7180)
PROBABILITY = Code("110854", "DCM", "Fractional Probabilistic Segmentation")
SALIENCY = Code("130404", "DCM", "Saliency")

# When in the heart's cycle it was looked at
CARDIAC_CYCLE_POINT = Code("272518008", "SCT", "Cardiac Cycle Point")

# Documents and their parts
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
"""Procedure reported (CID 100): what the study was is in its own header, so the report says no more than it knows."""
TWELVE_LEAD_ECG = Code("268400002", "SCT", "12-Lead ECG")
"""Procedure reported where no image was made (CID 3670). CID 100 lists imaging procedures only, and is extensible."""
SOURCE_OF_MEASUREMENT = Code("121112", "DCM", "Source of Measurement")
SOURCE_IMAGE = Code("121233", "DCM", "Source image for segmentation")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
REJECTED_FOR_QUALITY = Code("113001", "DCM", "Rejected for Quality Reasons")
REJECTED_FOR_PATIENT_SAFETY = Code("113037", "DCM", "Rejected for Patient Safety Reasons")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
DEVICE = Code("121007", "DCM", "Device")
PERSON = Code("121006", "DCM", "Person")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
DOCUMENT_TITLE_MODIFIER = Code("113011", "DCM", "Document Title Modifier")
SEGMENTATION = Code("113076", "DCM", "Segmentation")
IMAGE_PROCESSING = Code("121322", "DCM", "Source image for image processing operation")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
UNSPECIFIED_METHOD = Code("112187", "DCM", "Unspecified method of calculation")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
SOURCE_SERIES = Code("121232", "DCM", "Source series for segmentation")
