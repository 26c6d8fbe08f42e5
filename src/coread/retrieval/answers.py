"""What a source says of a study, series or instance: DICOM keyword → text, several values with a backslash between
them, whatever protocol it came by.
"""

from collections.abc import Iterator, Mapping

from coread.errors import SourceBusy

Answer = Mapping[str, str]


class AnswersLimited(SourceBusy):
    """A source has given some answers and says that there are more. It is to be asked for less at a time."""

    def __init__(self, message: str, *, answers: int) -> None:
        super().__init__(message)
        self.answers = answers


def number_in(answer: Answer, keyword: str) -> int | None:
    """A count; None if it is not there, or is no number."""
    text = answer.get(keyword, "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def values_in(answer: Answer, keyword: str) -> Iterator[str]:
    """The values of an attribute that are not empty."""
    return (value.strip() for value in answer.get(keyword, "").split("\\") if value.strip())
