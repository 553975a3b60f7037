"""Reading pickles of arrays without running what is in them."""

import _codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np

from shared.errors import UserError

Globals = Mapping[tuple[str, str], Any]
"""What a pickle may name, by module and name."""


_KINDS = "biufSU"  # truth values, numbers and text; objects and records could be made to reach into memory


def _plain_dtype(name: str | bytes, align: int = 0, copy: int = 0) -> np.dtype[Any]:
    # old pickles call numpy.dtype with 0 and 1 for flags, which NumPy 2.4 deprecates
    dtype: np.dtype[Any] = np.dtype(_text(name), align=bool(align), copy=bool(copy))
    if dtype.kind not in _KINDS:
        raise pickle.UnpicklingError(f"arrays must be of numbers or text; got {dtype}")
    return dtype


def _text(name: str | bytes) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else name


OLD_ARRAYS: Globals = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _plain_dtype,
    ("_codecs", "encode"): _codecs.encode,
}
"""Arrays as NumPy 1 wrote them, with Python 2 or in protocols 0 to 4."""

ARRAYS: Globals = {
    **OLD_ARRAYS,
    **{
        (f"numpy.{core}.{module}", name): value
        for core in ("core", "_core")
        for module, name, value in (
            ("multiarray", "_reconstruct", np.empty(0).__reduce__()[0]),
            ("multiarray", "scalar", np.float64(0).__reduce__()[0]),
            ("numeric", "_frombuffer", np.empty(0).__reduce_ex__(5)[0]),
        )
    },
}
"""Arrays and their scalars as any Python and NumPy wrote them, in any protocol."""


# the unpickler in C holds the bytes of an array that Python 2 wrote twice (0.8 GB each) while it reads, this one once
class RestrictedUnpickler(pickle._Unpickler):
    """Reads built-in containers, strings and numbers, and calls only what it is given.

    Args:
        file: The pickle.
        permitted: What the pickle may name: `OLD_ARRAYS`, `ARRAYS` or others.
        subject: What the pickle is, for the message: "a CIFAR-10 file".
        encoding: How strings of Python 2 are read. latin1: as str, with a second copy of the bytes of an array;
            bytes: as bytes, without it.
    """

    def __init__(
        self, file: BinaryIO, *, permitted: Globals, subject: str, encoding: Literal["latin1", "bytes"]
    ) -> None:
        super().__init__(file, encoding=encoding)
        self._permitted = permitted
        self._subject = subject

    read: Callable[[int], bytes]
    append: Callable[[Any], None]

    def load_bytearray8(self) -> None:
        """Read the bytes of an array of protocol 5 as bytes: filling a bytearray would hold them three times."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(length))

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module: str, name: str) -> Any:
        """Return a permitted global; refuse any other."""
        if (module, name) not in self._permitted:
            raise pickle.UnpicklingError(f"{self._subject} must hold arrays and lists only; got {module}.{name}.")
        return self._permitted[module, name]


def load_arrays(path: Path) -> Any:
    """Read a pickle of arrays, numbers, strings and containers of them, of any protocol.

    Args:
        path: The file.

    Returns:
        What is in it; strings that Python 2 wrote are bytes.

    Raises:
        UserError: The file is not a complete pickle, or names anything else; nothing of that is run.
    """
    try:
        with path.open("rb") as file:
            return RestrictedUnpickler(file, permitted=ARRAYS, subject=path.name, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise whatever the calls in it raise
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{path} must be a complete pickle of arrays; got: {reason}. Copy the file again from a source you trust."
        ) from error
