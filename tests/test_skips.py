"""The plugin that fails skipped tests in CI, run on small files of tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import skips

FILES = {
    "test_some": """
        import pytest

        def test_passes():
            pass

        def test_needs_a_peer():
            pytest.skip("needs open_clip")

        @pytest.mark.skipif(True, reason="needs java")
        def test_needs_java():
            pass

        @pytest.fixture
        def data():
            pytest.skip("needs the real data")

        @pytest.mark.parametrize("size", [1, 2])
        def test_needs_data(data, size):
            pass

        @pytest.mark.xfail
        def test_known_to_fail():
            assert False
    """,
    "test_whole": """
        import pytest

        pytest.importorskip("no_such_peer", reason="pip install it")

        def test_of_the_peer():
            pass
    """,
}


def _run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, *words: str) -> pytest.RunResult:
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile(**FILES)
    return pytester.runpytest_inprocess("-p", "tests.skips", "-p", "no:cacheprovider", *words)


def test_elsewhere_a_skip_is_a_skip(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(pytester, monkeypatch, "").assert_outcomes(passed=1, skipped=5, xfailed=1)


def test_in_ci_it_fails_and_says_why(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(pytester, monkeypatch, "true", "--continue-on-collection-errors")
    result.assert_outcomes(passed=1, failed=1, errors=4, xfailed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    for reason in ("needs open_clip", "needs java", "needs the real data", "pip install it"):
        result.stdout.fnmatch_lines([f"*was skipped, and in CI that is a failure: *{reason}*"])


def test_workers_of_xdist_tell_it_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(pytester, monkeypatch, "true", "-n", "1", "test_some.py")
    result.assert_outcomes(passed=1, failed=1, errors=3, xfailed=1)


def test_those_that_are_listed_may_be_skipped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"test_whole.py": "a file", "test_some.py::test_needs_java": "one", "test_some.py::test_needs_data": "all"}
    monkeypatch.setattr(skips, "ALLOWED", listed)
    _run(pytester, monkeypatch, "true").assert_outcomes(passed=1, failed=1, skipped=4, xfailed=1)


@pytest.mark.parametrize("name", skips.ALLOWED)
def test_what_is_listed_exists_and_has_a_reason(name: str) -> None:
    assert len(skips.ALLOWED[name].split()) > 3
    file, _, function = name.partition("::")
    tree = ast.parse((Path(__file__).parents[1] / file).read_text())
    assert not function or function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
