"""A notebook of the course that is skipped has failed: a lesson nobody runs is a lesson that breaks unseen."""

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "course: executes a notebook of the course")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.skipped and item.get_closest_marker("course"):
        report.outcome = "failed"
        report.longrepr = f"{item.name} was skipped. Every notebook must run."
    return report
