"""Files as no modality should write them: each study is read, or refused with a reason that quotes nothing of it.

COREAD_FUZZ_EXAMPLES says how long to search. What a search has found stands here as an example.
"""

import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given

from coread.dicom_sr.encode import encode_findings
from coread.errors import ConfigurationError, CoreadError, TransientError
from coread.models.runner import BundleRunner
from coread.workers.pipeline import Fetched, fetch
from coread.workers.study import studies_in_folder
from coread.workers.volume import SourceVolume
from tests.fuzzed_dicom import HARMS, Harm, harmed, to_element, write
from tests.fuzzing import searching
from tests.integration.test_result_objects import findings_in
from tests.support import identity

EXAMPLES = 80


def fetched(files: list[bytes], runner: BundleRunner) -> list[Fetched]:
    """What is fetched of the studies in some files; what is refused is left out."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        write(files, Path(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of what it reads
            try:
                studies = studies_in_folder(Path(name))
            except CoreadError as error:
                check(error)
                return []
            for study in studies:
                try:
                    found.append(fetch(study, runner.model.manifest))
                except CoreadError as error:
                    check(error)
    return found


def check(error: CoreadError) -> None:
    """A refusal is the study's fault, and says why in words."""
    assert not isinstance(error, TransientError | ConfigurationError), error
    assert str(error)
    assert "TEST^PATIENT" not in str(error)


def test_the_study_is_read_before_it_is_harmed(left_ventricle: BundleRunner) -> None:
    assert len(fetched(harmed([]), left_ventricle)) == 1


@searching(EXAMPLES)
@given(harms=HARMS)
def test_a_harmed_study_is_read_or_refused(left_ventricle: BundleRunner, harms: list[Harm]) -> None:
    read_or_refuse(harms, left_ventricle)


@pytest.mark.parametrize(
    "harms",
    [
        to_element(0x00280010, "length", b"\xff\xff", files=1),
        to_element(0x00080008, "swap", b"FD"),
        to_element(0x00080016, "swap", b"US", files=1),
        to_element(0x00080016, "value", b"1\\2", files=1),
        to_element(0x00080016, "value", b"1.2.840.10008.5.1.4.1.1\x004", files=1),
        to_element(0x00080018, "swap", b"AT", files=1),
        to_element(0x00080018, "value", b"\xff", files=1),
        to_element(0x00080018, "value", b"1\\2", files=1),
        to_element(0x00080020, "swap", b"US"),
        to_element(0x00080030, "swap", b"FD"),
        to_element(0x00080060, "swap", b"FD", files=1),
        to_element(0x00180050, "value", b"1\\0"),
        to_element(0x00180050, "value", b"nan"),
        to_element(0x00200052, "swap", b"AU", files=1),
        to_element(0x00280010, "value", b"\x01\x00\x02\x00"),
    ],
    ids=lambda harms: f"{harms[0].kind}-{harms[0].place:.2f}-{harms[0].value!r}",
)
def test_what_a_search_has_found_is_read_or_refused(left_ventricle: BundleRunner, harms: list[Harm]) -> None:
    read_or_refuse(harms, left_ventricle)


def read_or_refuse(harms: list[Harm], runner: BundleRunner) -> None:
    for found in fetched(harmed(harms), runner):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_results(found)


def write_results(found: Fetched) -> None:
    """What a harmed header gives can be written into a result, or is refused."""
    try:
        source = found.source
        assert isinstance(source, SourceVolume)
        encode_findings(findings_in(source, 2), source=source.as_source, identity=identity())
    except CoreadError as error:
        check(error)
