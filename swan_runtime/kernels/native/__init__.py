"""The native kernels: C with vector extensions, compiled once for this CPU by the system's compiler, loaded by ctypes.

Never required: without a compiler `library()` is None and the Numba kernels serve. See docs/adr/0002-native-kernels.md.
"""

from swan_runtime.kernels.native.library import Library, library

__all__ = ["Library", "library"]
