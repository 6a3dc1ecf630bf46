"""In CI a test that is skipped has failed: nothing says later that a proof was never run.

A pytest plugin, part of `tests/conftest.py`. CI is where the environment has CI=true. A test that cannot run there
stands in ALLOWED, with the reason."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping

import pytest

# Tests that may be skipped in CI, by their ids (without parameters) or by their files, and why.
ALLOWED: Mapping[str, str] = {
    "tests/training/test_trackers.py::test_wandb_works_without_a_network_and_is_told_every_step_once": (
        "wandb is an extra of its own, some 100 MB, and not among the packages for development"
    ),
    "tests/training/test_trackers.py::test_trackio_keeps_every_step_once": (
        "trackio is an extra of its own, and takes the pinned pillow back"
    ),
    "tests/data/sources/test_real_packages.py::test_captions_in_many_languages_survive": (
        "the stamps are a Debian package, tuxpaint-stamps-default, and CI installs none"
    ),
}


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


def allowed(nodeid: str) -> bool:
    """Whether a test or a file of tests may be skipped."""
    name = nodeid.split("[", 1)[0].split("@", 1)[0]
    return name in ALLOWED or name.split("::", 1)[0] in ALLOWED


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Makes a failure of what was skipped and is not allowed to be."""
    if not in_ci() or not report.skipped or hasattr(report, "wasxfail") or allowed(report.nodeid):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = (
        f"{report.nodeid} was skipped, and in CI that is a failure: {reason.removeprefix('Skipped: ')}. "
        "Install what is missing; or name it in ALLOWED of tests/skips.py, with the reason."
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail(report)
    return report
