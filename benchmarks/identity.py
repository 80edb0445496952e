"""The identity model: answers its input, so that what a benchmark of the service measures is the service."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def identity(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """INPUT [rows, n] -> OUTPUT [rows, n]."""
    return {"OUTPUT": inputs["INPUT"]}
