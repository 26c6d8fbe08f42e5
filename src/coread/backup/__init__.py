"""A copy of all that cannot be made anew, taken while everything runs; it has a data folder's own form.

Each part is as it was at one moment, and the moments are in this order: the ledger, what belongs to it, Orthanc's
index, the images. So whatever the ledger names is in the rest, and what the rest has besides is taken in again, as if
it had just arrived: the plugin reads on in Orthanc's change log from where the ledger had come to.
"""
