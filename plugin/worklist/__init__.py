"""The list of studies for people: what is in Orthanc, and how far each study has come.

`index` keeps a row for each study in a file of its own, `follow` keeps the rows true, `query` says what may be asked
for, `detail` tells all of one study, and `rest` answers. Patients are named in the index alone, never in the ledger; it
holds nothing that Orthanc and the ledger do not know, and is made again when it is missing. It has nothing to do with a
DICOM modality worklist.
"""
