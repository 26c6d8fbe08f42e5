"""Every error that Coread raises on purpose. What happens to a job follows from the type, never from the text.

    CoreadError
    ├── TransientError            try again later: the world may change
    │   ├── ArchiveUnavailable    Orthanc did not answer, or answered with a server error
    │   ├── BrokerUnavailable     the broker did not take a message in time
    │   ├── LedgerUnavailable     the ledger's database, or the plugin that speaks for it, did not answer
    │   ├── StudyListUnavailable  the worklist's index, a file, cannot be read or written
    │   ├── DestinationUnavailable  a destination of results cannot be reached, or does not let us in
    │   ├── DestinationBusy       a destination did not take an object this time, or cannot say what it holds
    │   ├── DestinationSilent     a destination did not answer for an object: nobody knows whether it has it
    │   ├── SourceUnavailable     an archive that studies are retrieved from does not answer
    │   ├── SourceBusy            such an archive does not hand over a study this time, or breaks off
    │   ├── StudyIncomplete       fewer instances of a study have come than the archive says that it has
    │   ├── NotTold               a webhook or mail server did not take what it was told of a finding
    │   ├── SyslogUnavailable     the syslog server did not take an audit message
    │   ├── WorklistUnavailable   a modality worklist does not say what was ordered
    │   ├── JobOverran            a job took longer than its time limit
    │   └── OutOfMemory           a model needed more memory than there was
    ├── InputError                this study cannot be read: the job is `refused`, with the reason
    │   ├── NotDicom              no DICOM file where one was expected, or a file that cannot be decoded
    │   ├── NoSuitableSeries      no series of the study is what the model reads
    │   ├── GeometryError         the images do not form one regular volume
    │   ├── WaveformError         the leads are not the recording that the model reads
    │   ├── ContestedStudy        two patients' studies carry the same UID
    │   ├── NotInSource           the archive that a study was to be retrieved from does not have it
    │   ├── SourceRefuses         that archive will not hand over a study, or our Orthanc not take it, however often
    │   ├── NotPseudonymised      an object cannot be rid of what may identify its patient
    │   └── SourceGone            the study, or an instance of it, is no longer in the archive
    ├── StudyChanged              the study is no longer what the job was made for: it is settled again
    ├── ModelError                the model failed, or gave what it must not give: the job is `failed`
    ├── DeliveryRefused           a destination refuses an object for good: the delivery is `failed`
    ├── RequestRefused            a request over REST is not granted: it is answered with the reason
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


class LedgerUnavailable(TransientError):
    pass


class StudyListUnavailable(TransientError):
    pass


class DestinationUnavailable(TransientError):
    pass


class DestinationBusy(TransientError):
    pass


class DestinationSilent(TransientError):
    pass


class SourceUnavailable(TransientError):
    pass


class SourceBusy(TransientError):
    pass


class StudyIncomplete(TransientError):
    pass


class NotTold(TransientError):
    pass


class SyslogUnavailable(TransientError):
    pass


class WorklistUnavailable(TransientError):
    pass


class JobOverran(TransientError):
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


class ContestedStudy(InputError):
    pass


class NotInSource(InputError):
    pass


class SourceRefuses(InputError):
    pass


class NotPseudonymised(InputError):
    pass


class SourceGone(InputError):
    pass


class StudyChanged(CoreadError):
    pass


class ModelError(CoreadError):
    pass


class DeliveryRefused(CoreadError):
    pass


class RequestRefused(CoreadError):
    pass


class ResultError(CoreadError):
    pass


class ConfigurationError(CoreadError):
    pass


class UnknownModel(ConfigurationError):
    pass
