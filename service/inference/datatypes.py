"""The protocol's datatypes and the numpy types that hold them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# BYTES is absent: its elements have no fixed size and live in arrays of dtype object
NUMPY_TYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = (*NUMPY_TYPES, "BYTES")
FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
NOT_IN_JSON = frozenset({"FP16", "BF16"})

Array = NDArray[np.generic]
