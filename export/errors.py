"""What can go wrong in an export.

ExportError          base: the command prints the sentence and exits with code 2
├─ FetchError        a file is not here and could not be fetched
├─ DataError         the data set cannot be used as it is
├─ CheckpointError   the checkpoint cannot be used
└─ GateError         a bundle lost quality and is not written
"""


class ExportError(Exception):
    """Base of everything that the user can act on."""


class FetchError(ExportError):
    """A file is not here and could not be fetched."""


class DataError(ExportError):
    """The data set cannot be used as it is."""


class CheckpointError(ExportError):
    """The checkpoint cannot be used."""


class GateError(ExportError):
    """A bundle lost quality and is not written."""
