"""`pip config list` on standard input -> pip.conf on standard output: `env`, `global` and `install` settings in one."""

import ast
import sys


def main() -> None:
    settings = {}
    for line in sys.stdin:
        name, _, value = line.strip().partition("=")
        settings[name.rpartition(".")[2]] = ast.literal_eval(value)
    sys.stdout.write("[global]\n" + "".join(f"{key} = {' '.join(value.split())}\n" for key, value in settings.items()))


if __name__ == "__main__":
    main()
