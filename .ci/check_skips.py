"""Fails on any skipped test that is not in allowed_skips.txt: a skip nobody decided on is a test nobody runs."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def main(report: str) -> int:
    """Returns the exit code for a JUnit XML report."""
    lines = Path(__file__).with_name("allowed_skips.txt").read_text().splitlines()
    allowed = {line.partition(" ")[0] for line in lines if line.strip() and not line.startswith("#")}
    skipped = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in ET.parse(report).iter("testcase")
        if case.find("skipped") is not None
    ]
    unexpected = [name for name in skipped if name not in allowed]
    for name in unexpected:
        print(f"skipped without being on the list: {name}", file=sys.stderr)
    print(f"{len(skipped)} skipped tests, {len(unexpected)} of them not on the list")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
