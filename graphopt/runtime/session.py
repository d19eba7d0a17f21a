"""onnxruntime sessions: one place that opens them, with or without kernels, and says in a line what is wrong."""

import hashlib
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal
from weakref import WeakKeyDictionary

import onnx
import onnxruntime
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from graphopt import observation
from graphopt.errors import GraphoptError
from graphopt.operators.blocked import block_size

Optimization = Literal["all", "extended", "basic", "none"]

LEVELS = {
    "all": GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""What onnxruntime may rewrite when a session starts, by the word that graphopt uses for it."""

PROVIDERS = ["CPUExecutionProvider"]

KERNELS_KEY = "graphopt.kernels"
"""Model metadata: file name of the kernel library; it stands in the model's own folder."""
KERNELS_DIGEST_KEY = "graphopt.kernels.sha256"
"""Model metadata, optional: SHA-256 of the kernel library, in hexadecimal. Another library is not loaded."""
VIEW_KEY = "graphopt.view"
"""Model metadata: executed, portable or raw."""
BLOCK_KEY = "graphopt.block"
"""Model metadata, optional: channels per block of the model's blocked-layout (nchwc) tensors."""

LARGEST_MESSAGE = 1_900_000_000
"""Bytes above which a model goes through a temporary file: protobuf stops at 2 GiB."""

one_line = partial(observation.one_line, longest=400)
"""An onnxruntime error as one line, with room for its reason."""

_registered: WeakKeyDictionary[SessionOptions, Path] = WeakKeyDictionary()
# onnxruntime takes a domain once per options object and does not say what an options object holds

_METADATA_FIELD = 14  # ModelProto.metadata_props
_FATAL = 4  # what goes wrong is raised, so nothing needs to be logged as well


def open_session(
    model: Path | bytes | onnx.ModelProto,
    *,
    optimization: Optimization = "all",
    threads: int = 1,
    kernels: Path | None = None,
    profile: Path | None = None,
) -> InferenceSession:
    """Open a model on the CPU, operators one after the other.

    Args:
        model: a file (external data is found beside it), a serialised model, or a model in memory.
        optimization: what onnxruntime may rewrite; "none" runs the graph as it stands.
        threads: threads within an operator; 0 leaves the number to onnxruntime.
        kernels: kernel library to register; its operators take precedence over the model's function bodies.
        profile: prefix of the profile that ``session.end_profiling()`` writes; None for no profile.

    Returns:
        The session.

    Raises:
        GraphoptError: onnxruntime rejects the model or the kernel library, or a file is missing.
    """
    if optimization not in LEVELS:
        raise GraphoptError(f"{optimization}: unknown optimisation level; known are {', '.join(LEVELS)}")
    options = _options(optimization, threads)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if kernels is not None:
        register(options, kernels)
    if isinstance(model, onnx.ModelProto):
        if model.ByteSize() > LARGEST_MESSAGE:
            return _through_file(model, options)
        model = model.SerializeToString()
    return _create(model, options)


def load(path: str | Path, sess_options: SessionOptions | None = None) -> InferenceSession:
    """Open a model that ``graphopt apply`` wrote, with its kernel library: a ready onnxruntime session.

    The model's metadata names the library; it must stand in the model's folder. Where it is missing, is not the one
    that was made for the model, or does not load here, one warning says so and the model runs by its function bodies:
    same numbers, without the speed. A model that graphopt did not write opens like in onnxruntime.

    A kernel library is native code that runs in this process: load models only from where you would take programs.

    Args:
        path: the model.
        sess_options: options of the session; the kernel library is registered on them, all else is left as it is. By
            default, onnxruntime's own options, except that the executed view, which onnxruntime has already optimised,
            is not optimised again.

    Returns:
        The session, on the CPU.

    Raises:
        GraphoptError: the file is no model, onnxruntime rejects it, or it was laid out for another kind of CPU.
    """
    path = Path(path)
    metadata = read_metadata(path)
    block = metadata.get(BLOCK_KEY)
    if block and block != str(block_size()):
        raise GraphoptError(
            f"{path}: laid out in blocks of {block} channels, this CPU computes in blocks of {block_size()}; "
            "apply graphopt to the original model on this machine, or with --view portable"
        )
    options = sess_options
    if options is None:
        options = SessionOptions()
        if metadata.get(VIEW_KEY) == "executed":
            options.graph_optimization_level = LEVELS["none"]
    if KERNELS_KEY in metadata:
        library = kernel_library(path, metadata)
        if sess_options is not None and _registered.get(sess_options, library) != library:
            held = _registered[sess_options]
            raise GraphoptError(f"{path}: the session options already carry {held}; use new ones for each model")
        problem = _why_not(library, metadata) if library else f"{metadata[KERNELS_KEY]!r} is not a plain file name"
        if library and not problem:
            try:
                register(options, library)
            except GraphoptError as error:
                problem = str(error)
        if problem:
            warnings.warn(f"{path}: runs without its kernels: {problem}", RuntimeWarning, stacklevel=2)
    return _create(path, options)


def open_deployed(path: Path, *, threads: int = 1) -> InferenceSession:
    """Open a model like ``load``, but with as many threads as told, one operator after the other, and without logging.

    A model that graphopt did not write, or one in the portable view, is optimised with everything that onnxruntime has.

    Args:
        path: the model.
        threads: threads within an operator; 0 leaves the number to onnxruntime.

    Returns:
        The session.

    Raises:
        GraphoptError: like ``load``.
    """
    executed = read_metadata(path).get(VIEW_KEY) == "executed"
    return load(path, _options("none" if executed else "all", threads))


def _options(optimization: Optimization, threads: int) -> SessionOptions:
    options = SessionOptions()
    options.graph_optimization_level = LEVELS[optimization]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    return options


def register(options: SessionOptions, library: Path) -> None:
    """Register a kernel library on session options; once more is no error.

    Raises:
        GraphoptError: there is no such file, onnxruntime or the library itself refuses, or the options already carry
            another kernel library, whose kernels would answer for this one's.
    """
    library = Path(library).absolute()
    if not library.is_file():
        raise GraphoptError(f"{library}: no such kernel library")
    held = _registered.get(options)
    if held == library:
        return
    if held is not None:
        raise GraphoptError(f"{library}: the session options already carry {held}; use new ones for each model")
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise GraphoptError(f"{library}: cannot load the kernel library: {one_line(error)}") from None
    _registered[options] = library


def kernel_library(path: Path, metadata: dict[str, str] | None = None) -> Path | None:
    """The kernel library that a model names, whether it exists or not.

    Args:
        path: the model.
        metadata: its metadata, where already read.

    Returns:
        Path of the library in the model's folder; None where the model names none, or names a file elsewhere.
    """
    name = (read_metadata(path) if metadata is None else metadata).get(KERNELS_KEY, "")
    if not name or name in (".", "..") or any(character in name for character in "/\\\0"):
        return None
    return path.absolute().parent / name


def _why_not(library: Path, metadata: dict[str, str]) -> str:
    """Why a library must not be loaded for a model; empty where it may."""
    if not library.is_file():
        return f"{library}: no such kernel library"
    expected = metadata.get(KERNELS_DIGEST_KEY)
    if expected and hashlib.sha256(library.read_bytes()).hexdigest() != expected:
        return f"{library}: not the kernel library that was made for this model"
    return ""


def read_metadata(path: Path) -> dict[str, str]:
    """A model file's metadata, without reading its graph: large fields are skipped on disk.

    Args:
        path: an ONNX file.

    Returns:
        Metadata by key.

    Raises:
        GraphoptError: the file cannot be read, or is not a protobuf message from start to end.
    """
    entries: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            while file.tell() < size:
                field, kind = divmod(_varint(file), 8)
                if kind == 2:
                    length = _varint(file)
                    if file.tell() + length > size:
                        raise ValueError("truncated")
                    if field == _METADATA_FIELD:
                        entry = onnx.StringStringEntryProto.FromString(file.read(length))
                        entries[entry.key] = entry.value
                    else:
                        file.seek(length, 1)
                elif kind == 0:
                    _varint(file)
                elif kind in (1, 5):
                    file.seek(8 if kind == 1 else 4, 1)
                else:
                    raise ValueError("unknown wire type")
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read the model: {error.strerror or error}") from None
    except Exception:  # protobuf's DecodeError differs between its implementations
        raise GraphoptError(f"{path}: not an ONNX model, or truncated") from None
    return entries


def _varint(file: BinaryIO) -> int:
    """The next protobuf integer: seven bits per byte, lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("truncated")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("integer too long")


def _create(model: Path | bytes, options: SessionOptions) -> InferenceSession:
    name = "the model" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise GraphoptError(f"{model}: no such file")
    try:
        return InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=PROVIDERS)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise GraphoptError(f"{name}: onnxruntime rejects it: {one_line(error)}") from None


def _through_file(model: onnx.ModelProto, options: SessionOptions) -> InferenceSession:
    """Open a model that is too large for one message: its weights go to a temporary file."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        onnx.save_model(copy, path, save_as_external_data=True, location="weights.bin")
        return _create(path, options)
