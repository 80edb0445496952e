"""`python -m swan_runtime.kernels.native`: compile for every CPU family, for images without a compiler."""

import sys

from swan_runtime.kernels.native.build import FAMILIES, PACKAGED, build


def main() -> None:
    """Compile all families into the package; the image then needs no compiler."""
    for family in FAMILIES:
        sys.stdout.write(f"{build(family, PACKAGED).name}\n")


if __name__ == "__main__":
    main()
