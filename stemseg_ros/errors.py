"""What a user can put right: one base class, so that a program reports it in one line."""

from __future__ import annotations


class StemsegError(Exception):
    """A mistake in what was given (settings, files, arguments); the message names it and the remedy."""


class MediaError(StemsegError):
    """A video, an image, an image folder or a bag cannot be read or written."""


class MissingExtraError(StemsegError):
    """An optional dependency of the package is not installed."""
