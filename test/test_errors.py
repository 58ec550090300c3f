"""Which extra brings a missing module."""

from __future__ import annotations

import importlib

import pytest

from stemseg_ros.errors import MissingExtraError, StemsegError, needs_extra


def test_missing_module_names_its_extra() -> None:
    words = r"no_such_module is not installed; pip install 'stemseg-ros\[train\]'"
    with pytest.raises(MissingExtraError, match=words), needs_extra("train"):
        importlib.import_module("no_such_module")
    assert issubclass(MissingExtraError, StemsegError)


def test_a_missing_module_of_our_own_is_a_bug_and_stays_one() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("train"):
        importlib.import_module("stemseg_ros.no_such_module")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), needs_extra("train"):
        raise KeyError("other")
