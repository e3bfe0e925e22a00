"""What the plugin costs those who do not use it: `pytest --collect-only` of an empty folder.

Two commands, with the plugin and with `-p no:falsify`, started in turn; the medians of each and of
the paired differences are printed. Run it with ``make bench-startup``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

OTHERS = ("anyio", "cacheprovider", "hypothesispytest", "randomly", "xdist")
WITH = [
    sys.executable, "-m", "pytest", "--collect-only", "-q",
    *(word for name in OTHERS for word in ("-p", f"no:{name}")),
]  # fmt: skip
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
WITHOUT = [*WITH, "-p", "no:falsify"]


def seconds(command: list[str], folder: str) -> float:
    """Return how long a command takes, wall time; compiled modules may be kept, as usual."""
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        seconds(WITH, folder)
        without, with_plugin = [], []
        for _ in range(pairs):
            without.append(seconds(WITHOUT, folder))
            with_plugin.append(seconds(WITH, folder))
    added = [b - a for a, b in zip(without, with_plugin, strict=True)]
    print("| pytest --collect-only, empty folder | median | minimum |")
    print("|---|---|---|")
    for name, values in (("without", without), ("with pytest-falsify", with_plugin)):
        print(f"| {name} | {statistics.median(values) * 1e3:.1f} ms | {min(values) * 1e3:.1f} ms |")
    least = (min(with_plugin) - min(without)) * 1e3
    print(f"| added, paired | {statistics.median(added) * 1e3:+.1f} ms | {least:+.1f} ms |")


if __name__ == "__main__":
    main()
