"""A plugin of pytest: each outcome is a line in the file that DAL_OUTCOMES names, as soon as the test has ended."""

import json
import os
from pathlib import Path
from typing import Any

LONGEST_LINE = 300  # characters of a reason


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the outcome of a test's call, and of a set-up that failed or skipped it."""
    if report.when != "call" and not (report.when == "setup" and report.outcome != "passed"):
        return
    entry = {"name": report.nodeid.rpartition("::")[2], "outcome": report.outcome, "line": reason(report)}
    with open(os.environ["DAL_OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def reason(report: Any) -> str:
    """Return why a test failed or was skipped, in one line; empty for one that passed."""
    if report.outcome == "passed":
        return ""
    told = report.longrepr
    if isinstance(told, tuple):  # of a skip: file, line, reason
        return str(told[2])[:LONGEST_LINE]
    crash = getattr(told, "reprcrash", None)
    text = str(told) if crash is None else f"{Path(crash.path).name}:{crash.lineno}: {crash.message}"
    return " ".join(text.split())[:LONGEST_LINE]
