"""Train the model and report on it.

The data: https://physionet.org/content/ptb-xl, CC BY 4.0. The folder holds ``records100``, ``ptbxl_database.csv`` and
``MANIFEST.csv`` (columns ``path``, ``group``: the person, ``label``: diagnostic classes with ``|`` between, ``split``).
"""

from coread.evaluation.shipped import training_command
from coread.models.ecg_12_lead.train.data import load_cases
from coread.models.ecg_12_lead.train.studies import write_studies
from coread.models.ecg_12_lead.train.training import BUNDLE, PLAN, train

if __name__ == "__main__":
    training_command(BUNDLE, plan=PLAN, load_cases=load_cases, train=train, write_studies=write_studies)()
