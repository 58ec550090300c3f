"""Labelled images and videos on disk, one file per format, all read as ``LabelledSequence``."""
