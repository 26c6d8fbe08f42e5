"""How good a model is: it reads studies as a job does, and what would be written is compared with a reference standard.

Start reading at ``run.py``. Figures are pure functions of arrays (``overlap``, ``classes``, ``agreement``), their
intervals come from ``bootstrap``; ``page`` and ``card`` say in words and pictures what stands in the report.
"""
