"""Workitems over UPS-RS (PS3.18 chapter 11), which the standard calls a worklist.

It is neither the list of studies for people (`coread.plugin.worklist`) nor a modality worklist, which says what was
ordered (`coread.plugin.orders`).
"""
