"""``coread validate``: what the public validators miss in result objects, anybody's.

The validators check a file against the standard, one at a time. The rules here check what a file says against what it
speaks of: the source images, the segmentation that a report measures, the codes and units that it uses.
"""
