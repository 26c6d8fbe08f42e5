"""``coread archivist``: carries archive runs out. It retrieves studies, has them read, keeps what was found, and
removes what it has brought.

Everything here may stop anywhere. What was begun stands in the ledger before it is begun, every step may be repeated,
and one archivist at a time is at a run.
"""
