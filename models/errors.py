"""What this package raises on purpose, on top of swan_runtime.errors.

FieldError (swan_runtime)
└── PackageError             a model package cannot be used: field, what was expected, what was got
    ├── PackageNotFound      no such name or version in the repository
    ├── NewerFormat          written by a later release of swan-serve
    ├── WrongHash            a file is not the one that the manifest pins
    └── BaseWeightsMissing   pinned base weights cannot be had from here; says what to do
"""

from swan_runtime.errors import FieldError


class PackageError(FieldError):
    """A model package that cannot be used."""


class PackageNotFound(PackageError):
    """No such model name or version."""


class NewerFormat(PackageError):
    """The package was written by a later release."""


class WrongHash(PackageError):
    """A file's sha256 differs from the pinned one."""


class BaseWeightsMissing(PackageError):
    """Base weights are neither cached nor downloadable."""
