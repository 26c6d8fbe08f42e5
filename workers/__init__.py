"""The workers: they take a job, read its study with a model, and store what was found.

Start reading at ``pipeline.py``.
"""
