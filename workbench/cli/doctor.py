"""`workbench doctor`: what this machine can run."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from workbench.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    doctor = commands.add_parser("doctor", help="what this machine can run, in under a minute")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from workbench.course.doctor import examine

    findings = examine()
    blocked = any(finding.level == "blocked" for finding in findings)
    if options.json:
        print(json.dumps({"ready": not blocked, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(f"{finding.level:8} {finding.name}: {finding.value}")
            if finding.remedy:
                print(f"{'':8} -> {finding.remedy}")
        print("The laptop tier cannot run yet." if blocked else "Ready: the laptop tier runs here.")
    return 1 if blocked else 0
