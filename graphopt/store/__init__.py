"""Observed corpora: what running services write, from many hosts and processes at once, and miners read.

    graphs/<digest>.onnx     each graph once, without weights, named by the digest of its structure
    captures/*.parquet       executions by graph and input shapes: a file for each writer and flush
    profiles/*.parquet       sampled operator times

docs/file-formats.md describes the files, and why nothing is lost or counted twice beside ``graphopt corpus compact``.
"""

from graphopt.store.folders import is_url
from graphopt.store.observed import GRAPHS, ObservedCorpus, is_digest, is_observed, open
from graphopt.store.rows import COMPACTED, LATE, Rows, age, file_name
from graphopt.store.tables import CAPTURES, PROFILES, Capture, Kind, OperatorTime

__all__ = [
    "CAPTURES",
    "COMPACTED",
    "GRAPHS",
    "LATE",
    "PROFILES",
    "Capture",
    "Kind",
    "ObservedCorpus",
    "OperatorTime",
    "Rows",
    "age",
    "file_name",
    "is_digest",
    "is_observed",
    "is_url",
    "open",
]
