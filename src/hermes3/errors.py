"""Every error that hermes3 raises on purpose.

    Hermes3Error                    what, which value, which limit, and the remedy, in one sentence
    ├── ModelNotFoundError          no such model name, file, folder or repository
    ├── DownloadError               the hub or the package index could not deliver
    │   ├── NetworkError            nothing answered
    │   ├── DiskSpaceError          the file does not fit
    │   └── HashMismatchError       what arrived is not what was promised
    ├── FormatError                 a file that is not what it says it is
    │   └── UnsupportedError        a sound file that holds something the engine does not do
    ├── ReplayError                 a trace that does not fit what is replayed
    ├── AnswerError                 the model wrote, but not what was asked for
    └── RequestError                a request that cannot be honoured; ``param`` names the field
        ├── ContextLengthError      prompt (and answer) longer than the context
        └── CapacityError           no memory or no queue place for the request now
"""

from __future__ import annotations


class Hermes3Error(Exception):
    """Base of the family: ``except Hermes3Error`` catches all that hermes3 raises on purpose."""


class ModelNotFoundError(Hermes3Error):
    """No such model name, file, folder or repository."""


class DownloadError(Hermes3Error):
    """The hub or the package index could not deliver a file."""


class NetworkError(DownloadError):
    """Nothing answered at the address."""


class DiskSpaceError(DownloadError):
    """The file is larger than the free space of its disk."""


class HashMismatchError(DownloadError):
    """The bytes that arrived do not have the promised SHA-256."""


class FormatError(Hermes3Error):
    """A file that is damaged or not of the format that it claims."""


class UnsupportedError(FormatError):
    """A sound file that holds something the engine does not do."""


class ReplayError(Hermes3Error):
    """A trace that is of another run, or does not fit together."""


class AnswerError(Hermes3Error):
    """What the model wrote is not what was asked for, and it was asked as often as that is of use."""


class RequestError(Hermes3Error):
    """A request that cannot be honoured.

    Attributes:
        param: name of the offending field, or None where no single field is at fault.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(RequestError):
    """The prompt, or prompt and answer together, exceed the context."""


class CapacityError(RequestError):
    """Not enough memory or queue places for the request at this moment."""
