"""Everything this package raises on purpose.

SwanError
├── InvalidInputError        a caller's tensor, mask or budget does not fit (field, expected, got)
├── CalibrationError         a calibration table is malformed, of another model, or of a newer format
└── CheckpointError          weights are missing, corrupt, of another model, or of a newer format
"""


class SwanError(Exception):
    """Base of every deliberate error of swan_runtime."""


class FieldError(SwanError, ValueError):
    """A value does not fit: names the field, what was expected and what was got."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field = field
        self.expected = expected
        self.got = got


class InvalidInputError(FieldError):
    """An input tensor, mask or budget that the runtime refuses."""


class CalibrationError(FieldError):
    """A calibration table that cannot be used."""


class CheckpointError(FieldError):
    """Stored weights that cannot be used."""
