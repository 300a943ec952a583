"""Reads and writes PyTorch's `.pth` files without PyTorch.

A `.pth` file contains a pickle, and a pickle can run any program. This unpickler accepts only the few names that a file
of tensors needs, and refuses all others. It never imports anything.

There are two formats: the zip archive that PyTorch writes since version 1.6, with `NAME/data.pkl` and one uncompressed
entry `NAME/data/KEY` for each storage; and the older format, a sequence of pickles followed by the raw storages.

Source: torch/serialization.py of PyTorch.
"""

import collections
import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from seemore_jax.porting.errors import WeightsError
from seemore_jax.system.errors import one_line
from seemore_jax.system.files import atomic_write

_DTYPE_OF_STORAGE = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Reads a file that `torch.save` wrote.

    Args:
      path: the file.

    Returns:
      The content: nested dicts, lists and numbers, with tensors as NumPy arrays. The arrays are read-only views of the
      bytes of the file; bfloat16 becomes the dtype `ml_dtypes.bfloat16`.

    Raises:
      WeightsError: the file is missing, damaged or not a PyTorch file, or it asks for a name that tensors do not need.
        In the last case, the message has the name, and nothing of the file was run.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        read = _read_zip if zipfile.is_zipfile(io.BytesIO(data)) else _read_legacy
        return _to_arrays(read(data))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # The unpickler raises nearly any exception for a damaged pickle.
        raise WeightsError(f"{path}: damaged, or not a PyTorch file ({one_line(error)})") from error


class _Immutable:
    """An object that a pickle can create but not change. Changes by the BUILD opcode would bypass all checks."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise WeightsError("refused: the file tries to change the reader")


class _Storage(_Immutable):
    """A block of numbers in the file. Its array is set when the bytes are read."""

    __slots__ = ("array", "count", "dtype")

    def __init__(self, dtype: np.dtype, count: int) -> None:
        self.dtype = dtype
        self.count = count
        self.array: np.ndarray | None = None

    def fill(self, data: bytes) -> None:
        if len(data) != self.count * self.dtype.itemsize:
            raise WeightsError(f"damaged: a storage of {self.count} numbers has {len(data)} bytes")
        self.array = np.frombuffer(data, self.dtype)


class _Tensor(_Immutable):
    """A view of a storage, with the arguments of `torch._utils._rebuild_tensor_v2`, which are not checked yet."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        self.storage = storage
        self.offset = offset
        self.shape = tuple(shape)
        self.strides = tuple(strides)

    def to_array(self) -> np.ndarray:
        """Checks that the view lies inside its storage, and returns it."""
        array = self.storage.array if isinstance(self.storage, _Storage) else None
        numbers = (self.offset, *self.shape, *self.strides)
        if array is None or not all(type(number) is int and number >= 0 for number in numbers):
            raise WeightsError("damaged: a tensor has no storage or an impossible shape")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        count = math.prod(self.shape)
        if count == 0:
            return np.empty(self.shape, array.dtype)
        # The second condition refuses views that repeat a small storage to make an enormous tensor.
        if last >= array.size or count > array.size:
            raise WeightsError("damaged: a tensor reaches beyond its storage")
        strides = tuple(stride * array.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(array[self.offset :], self.shape, strides, writeable=False)


class _Function(_Immutable):
    """A function that the file may call."""

    __slots__ = ("_apply",)

    def __init__(self, apply: Callable[..., Any]) -> None:
        self._apply = apply

    def __call__(self, *arguments: Any) -> Any:
        return self._apply(*arguments)


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_Tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
    ("torch", "Size"): _Function(tuple),
    **{("torch", storage): storage for storage in _DTYPE_OF_STORAGE},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that accepts only the names in `_ALLOWED`, and adds the storages of the pickle to `storages`."""

    def __init__(self, file: io.BytesIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise WeightsError(
                f"refused: the file asks for {module}.{name}; only tensors are read from .pth files"
            ) from None

    def persistent_load(self, reference: Any) -> _Storage:
        kind, storage_type, key, _, count = reference[:5]
        if kind != "storage" or storage_type not in _DTYPE_OF_STORAGE or type(count) is not int or count < 0:
            raise WeightsError("damaged: a storage of unknown type or size")
        return self._storages.setdefault(str(key), _Storage(_DTYPE_OF_STORAGE[storage_type], count))


def _unpickle(file: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    _check_memo(file)
    return _Unpickler(file, storages).load()


def _check_memo(file: io.BytesIO) -> None:
    """Refuses huge indices in the pickle, because the unpickler's memo is an array and would take all memory."""
    start = file.tell()
    size = len(file.getbuffer())
    for opcode, argument, _ in pickletools.genops(file):
        if "PUT" in opcode.name and int(argument or 0) > size:
            raise WeightsError("damaged: an impossible index in the pickle")
    file.seek(start)


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        pickled = [name for name in names if name.split("/", 1)[1:] == ["data.pkl"]]
        if len(pickled) != 1:
            raise WeightsError("a zip archive, but not one that torch.save wrote (no data.pkl)")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise WeightsError("a compressed zip archive; torch.save writes uncompressed ones")
        root = pickled[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise WeightsError("written on a big-endian machine, which is not supported")
        storages: dict[str, _Storage] = {}
        content = _unpickle(io.BytesIO(archive.read(pickled[0])), storages)
        for key, storage in storages.items():
            storage.fill(archive.read(f"{root}data/{key}"))
        return content


def _read_legacy(data: bytes) -> Any:
    file = io.BytesIO(data)
    storages: dict[str, _Storage] = {}
    if _unpickle(file, storages) != _LEGACY_MAGIC or _unpickle(file, storages) != _LEGACY_PROTOCOL:
        raise WeightsError("not a PyTorch file")
    if not _unpickle(file, storages)["little_endian"]:
        raise WeightsError("written on a big-endian machine, which is not supported")
    content = _unpickle(file, storages)
    for key in _unpickle(file, storages):
        storage = storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise WeightsError(f"damaged: a storage of {storage.count} numbers claims {count}")
        storage.fill(file.read(count * storage.dtype.itemsize))
    return content


def _to_arrays(content: Any, converted: dict[int, Any] | None = None) -> Any:
    """Replaces tensors by arrays. Objects that occur several times are converted once, to limit time and memory."""
    converted = {} if converted is None else converted
    if id(content) not in converted:
        if isinstance(content, _Tensor):
            result: Any = content.to_array()
        elif isinstance(content, dict):
            result = {key: _to_arrays(value, converted) for key, value in content.items()}
        elif isinstance(content, list | tuple):
            result = type(content)(_to_arrays(value, converted) for value in content)
        else:
            return content
        converted[id(content)] = result
    return converted[id(content)]


def write_torch_file(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
    """Writes `{"params": tensors, **extra}` in the format of `torch.save`.

    `torch.load(path, weights_only=True)` reads the file.

    Args:
      path: the file, which appears only when it is complete.
      tensors: arrays by name, which are written as float32.
      extra: more entries: numbers, strings, and dicts of these.

    Raises:
      OSError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(tensor, np.dtype("<f4")) for name, tensor in tensors.items()}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle(arrays, extra))
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def _pickle(arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> bytes:
    # The pickle is written opcode by opcode, because the pickle module would import torch to name its functions.
    tensors = {name: _pickled_tensor(str(key), array) for key, (name, array) in enumerate(arrays.items())}
    plain = {name: _pickled(value) for name, value in extra.items()}
    return pickle.PROTO + b"\x02" + _pickled_dict({"params": _pickled_dict(tensors), **plain}) + pickle.STOP


def _pickled_tensor(key: str, array: np.ndarray) -> bytes:
    storage_type = _pickled_name("torch", "FloatStorage")
    storage = _pickled_tuple(_pickled("storage"), storage_type, _pickled(key), _pickled("cpu"), _pickled(array.size))
    strides = tuple(stride // array.itemsize for stride in array.strides)
    no_hooks = _pickled_name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = _pickled_tuple(
        storage + pickle.BINPERSID,
        _pickled(0),
        _pickled_tuple(*map(_pickled, array.shape)),
        _pickled_tuple(*map(_pickled, strides)),
        _pickled(False),
        no_hooks,
    )
    return _pickled_name("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _pickled(value: Any) -> bytes:
    if isinstance(value, dict):
        return _pickled_dict({key: _pickled(item) for key, item in value.items()})
    return pickle.dumps(value, protocol=2).removeprefix(pickle.PROTO + b"\x02").removesuffix(pickle.STOP)


def _pickled_dict(items: Mapping[str, bytes]) -> bytes:
    pairs = b"".join(_pickled(key) + value for key, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def _pickled_tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _pickled_name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
