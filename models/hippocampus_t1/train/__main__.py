"""Train the model and report on it.

The data: http://medicaldecathlon.com, Task04_Hippocampus, CC-BY-SA 4.0. The folder holds ``images`` and ``labels``
(NIfTI files of the same names) and ``MANIFEST.csv`` (columns ``path``, ``group``: the person, ``split``).
"""

from coread.evaluation.shipped import training_command
from coread.models.hippocampus_t1.train.data import load_cases
from coread.models.hippocampus_t1.train.studies import write_studies
from coread.models.hippocampus_t1.train.training import BUNDLE, PLAN, train

if __name__ == "__main__":
    training_command(BUNDLE, plan=PLAN, load_cases=load_cases, train=train, write_studies=write_studies)()
