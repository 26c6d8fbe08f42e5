"""Train the model and report on it.

The data: https://github.com/ericspod/VPHSummerSchool2019 (scd_lvsegs.npz), from the Sunnybrook Cardiac Data, CC0.
The folder holds ``lv_shortaxis.npz`` (arrays ``images``, ``masks``, ``voxel_size_mm``) and ``split.csv`` (columns
``case``, ``first_slice``, ``last_slice_exclusive``, ``split``).
"""

from coread.evaluation.shipped import training_command
from coread.models.left_ventricle_sax.train.data import load_cases
from coread.models.left_ventricle_sax.train.studies import write_studies
from coread.models.left_ventricle_sax.train.training import BUNDLE, PLAN, train

if __name__ == "__main__":
    training_command(BUNDLE, plan=PLAN, load_cases=load_cases, train=train, write_studies=write_studies)()
