"""The courier: brings results from the archive to their destinations, each object once.

Start reading at ``lane.py``. It runs in a process of its own, `coread courier`, where the ledger's database can be
reached.
"""
