"""Train the model and report on it.

The data: https://doi.org/10.17632/rscbjbr9sj (Kermany, Zhang, Goldbaum), CC BY 4.0. The folder holds ``images`` (JPEG,
squeezed to 224 by 224) and ``MANIFEST.csv`` (columns ``path``, ``group``: the child, ``label``, ``split``).
"""

from coread.evaluation.shipped import training_command
from coread.models.chest_xray_pneumonia.train.data import load_cases
from coread.models.chest_xray_pneumonia.train.studies import write_studies
from coread.models.chest_xray_pneumonia.train.training import BUNDLE, PLAN, train

if __name__ == "__main__":
    training_command(BUNDLE, plan=PLAN, load_cases=load_cases, train=train, write_studies=write_studies)()
