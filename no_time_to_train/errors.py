"""The errors that users meet: what failed, what was expected and got, and what mends it.

Every error is a `NoTimeToTrainError` and also the builtin that a caller would expect, so that both
``except NoTimeToTrainError`` and, say, ``except FileNotFoundError`` work. The command lines print them as one line
and exit with status 2.
"""


class NoTimeToTrainError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        message: What failed, with what was expected and what was got. One sentence, no newline needed.
        remedy: What the user can do about it, as a command or an instruction.

    Examples:
        >>> print(NoTimeToTrainError("no such thing: x", remedy="try y"))
        no such thing: x (try y)
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})"


class MissingExtraError(NoTimeToTrainError, ImportError):
    """A library that is not installed, because it comes with an extra of this package."""


class UnknownEncoderError(NoTimeToTrainError, KeyError):
    """A name that is in no registry entry."""


class UnknownNameError(NoTimeToTrainError, KeyError):
    """A split, class or SAM2 configuration name that is not known."""


class ConfigError(NoTimeToTrainError, ValueError):
    """A setting that is out of range, or that contradicts another."""


class WeightsNotFoundError(NoTimeToTrainError, FileNotFoundError):
    """A weights file or folder that is missing or empty, or weights that were not named at all."""


class WeightsFormatError(NoTimeToTrainError, ValueError):
    """A weights file that cannot be read, or whose layout is not one that is known."""


class UnsafeWeightsError(WeightsFormatError):
    """A pickle that asks for more than tensors and plain containers."""


class KeyMismatchError(WeightsFormatError):
    """Missing or unexpected tensors in a weights file."""


class ShapeMismatchError(WeightsFormatError):
    """Tensors of another architecture or size than the named model's."""


class EncoderMismatchError(NoTimeToTrainError, ValueError):
    """A memory bank that was filled with another encoder than the one in use."""


class EmptyClassError(NoTimeToTrainError, ValueError):
    """A class that has no usable reference."""


class ImageSizeError(NoTimeToTrainError, ValueError):
    """Pixels whose height or width the encoder cannot take."""


class ImageReadError(NoTimeToTrainError, OSError):
    """A file that is missing, or no image, or a truncated one."""


class MaskSizeError(NoTimeToTrainError, ValueError):
    """A mask whose size is not its image's, or not the patch grid's."""


class AnnotationError(NoTimeToTrainError, ValueError):
    """COCO JSON or a reference set that is malformed, or that refers to what is not there."""


class NotEnoughReferencesError(NoTimeToTrainError, ValueError):
    """A class with fewer usable annotations than the shots asked for."""


class DataNotFoundError(NoTimeToTrainError, FileNotFoundError):
    """A dataset file or folder that is missing."""


class OutputError(NoTimeToTrainError, OSError):
    """A result that cannot be written."""


class ExportError(NoTimeToTrainError, RuntimeError):
    """An exported file that is not what it should be."""


class ParityError(NoTimeToTrainError, RuntimeError):
    """Backends of one encoder that say different things."""


class EmptyMaskError(NoTimeToTrainError, ValueError):
    """A reference mask without any foreground."""


class ProcessLostError(NoTimeToTrainError, RuntimeError):
    """Another process of a distributed run that ended early."""


class FetchError(NoTimeToTrainError):
    """Root of what can go wrong while weights are fetched."""


class AuthenticationError(FetchError, PermissionError):
    """No token, or one that the Hub does not know (401)."""


class AccessPendingError(FetchError, PermissionError):
    """Access to a repository that was not asked for, or not granted yet (403)."""


class AccessRejectedError(FetchError, PermissionError):
    """Access that was refused, or a link that has expired (403)."""


class RepositoryNotFoundError(FetchError, FileNotFoundError):
    """A repository, revision or link under which there is nothing (404)."""


class LocalEntryNotFoundError(FetchError, FileNotFoundError):
    """A fetched folder that is missing, partial or corrupted."""


class ChecksumMismatchError(FetchError, ValueError):
    """A file whose length or hash is not the one that was announced or recorded."""


class DiskFullError(FetchError, OSError):
    """Less free space than the files need."""


class NetworkError(FetchError, ConnectionError):
    """A server that cannot be reached, or that broke off too often."""


class ProxyRefusedError(NetworkError):
    """A proxy that would not let a request through."""
