"""References: which annotations of which images stand for which class, from files of many forms."""

from no_time_to_train.data.references.builder import LabeledImages
from no_time_to_train.data.references.sets import (
    PICKLE_SUFFIXES,
    Reference,
    ReferenceSet,
    load_negative_references,
    load_references,
    negative_references,
    reference_set,
    reference_window,
)
from no_time_to_train.data.references.sources import Sources, read_references, write_references

__all__ = [
    "PICKLE_SUFFIXES",
    "LabeledImages",
    "Reference",
    "ReferenceSet",
    "Sources",
    "load_negative_references",
    "load_references",
    "negative_references",
    "read_references",
    "reference_set",
    "reference_window",
    "write_references",
]
