"""The audit trail: who sent, what ran, what was written and delivered; as rows of the ledger and as DICOM's messages.

`event` says what a row holds, `message` makes the XML of PS3.15 A.5 of it, `syslog` carries it, `sender` sees that each
row is carried. Nothing here knows the patient.
"""
