"""Mistakes that a user can correct: one base class, so that a program reports them in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class StemsegError(Exception):
    """A mistake in settings, files or arguments; the message names it and the remedy."""


class MediaError(StemsegError):
    """A video, an image, an image folder or a bag cannot be read or written."""


class BagError(MediaError):
    """A bag cannot be read or written; the message names it, the reason, and the topics there
    are."""


class PromptError(StemsegError, ValueError):
    """Prompts cannot be followed; nothing has changed, and the message names the object and the
    reason."""


class DeviceError(StemsegError):
    """The requested device does not exist here."""


class MissingExtraError(StemsegError):
    """An optional dependency of the package is not installed."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Context of imports that an extra of the package brings: the error names the extra to
    install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"{error.name} is not installed; pip install 'stemseg-ros[{extra}]' brings it"
        ) from error
