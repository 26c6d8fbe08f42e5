"""Every error that Coread raises on purpose. What happens to a job follows from the type, never from the text.

    CoreadError
    ├── TransientError            try again later: the world may change
    │   ├── ArchiveUnavailable    Orthanc did not answer, or answered with a server error
    │   ├── BrokerUnavailable     the broker did not take a message in time
    │   └── OutOfMemory           a model needed more memory than there was
    ├── InputError                this study cannot be read: the job is `refused`, with the reason
    │   ├── NotDicom              no DICOM file where one was expected, or a file that cannot be decoded
    │   ├── NoSuitableSeries      no series of the study is what the model reads
    │   ├── GeometryError         the images do not form one regular volume
    │   ├── WaveformError         the leads are not the recording that the model reads
    │   └── SourceGone            the study, or an instance of it, is no longer in the archive
    ├── StudyChanged              the study is no longer what the job was made for: it is settled again
    ├── ModelError                the model failed, or gave what it must not give: the job is `failed`
    ├── ResultError               a result object did not read back as what was to be written: the job is `failed`
    └── ConfigurationError        a person must change a setting or a file; a job that meets it has failed
        └── UnknownModel          a model is named that is not installed

A message says what was expected, what was found and what to do. It never holds patient data: messages travel in
logs, in the ledger and over the broker. UIDs may stand in it.
"""


class CoreadError(Exception):
    """The root of the tree above."""


class TransientError(CoreadError):
    pass


class ArchiveUnavailable(TransientError):
    pass


class BrokerUnavailable(TransientError):
    pass


class OutOfMemory(TransientError):
    pass


class InputError(CoreadError):
    pass


class NotDicom(InputError):
    pass


class NoSuitableSeries(InputError):
    pass


class GeometryError(InputError):
    pass


class WaveformError(InputError):
    pass


class SourceGone(InputError):
    pass


class StudyChanged(CoreadError):
    pass


class ModelError(CoreadError):
    pass


class ResultError(CoreadError):
    pass


class ConfigurationError(CoreadError):
    pass


class UnknownModel(ConfigurationError):
    pass
