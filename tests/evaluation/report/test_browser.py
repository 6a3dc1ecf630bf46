"""The pages in a real browser: they load without an error, follow the dark setting, and fit a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from chiasm.evaluation.comparison import compare_evaluations
from chiasm.evaluation.report import write_report
from chiasm.evaluation.report.compared import write_comparison
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.tasks.probes import Probes
from tests.evaluation.fakes import HashEmbedder, world

pytestmark = pytest.mark.xdist_group("browser")

_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--virtual-time-budget=2000", "--enable-logging=stderr", "--v=0"),
)
_SAID = re.compile(r":CONSOLE[:(]\d+.*")


def browse(page: Path, *options: str) -> tuple[str, str]:
    """What the browser printed, and what pages said to its console; skips where there is no browser."""
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("needs chromium on the path")
    words = [browser, *_QUIET, f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, "\n".join(_SAID.findall(done.stderr))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A report and a comparison of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [folder / "one", folder / "two"]
    for at, run in enumerate(runs):
        evaluate(
            HashEmbedder(seed=at), [Probes(world(24))], run / "evaluation", about={"name": f"m{at}"}, progress=False
        )
    report = write_report(runs, folder / "report.html")
    folders = [run / "evaluation" for run in runs]
    compared, _ = write_comparison(compare_evaluations(folders[0], folders[1]), folders, folder / "compare.html")
    return [report, compared]


def test_pages_load_without_an_error(pages: list[Path]) -> None:
    for page in pages:
        shown, said = browse(page, "--dump-dom")
        assert shown.rstrip().endswith("</html>")
        assert not said
        if "<script>" in shown:
            assert re.search(r'<form class="filter">', shown), "the script did not unfold the filters"
            assert re.search(r"<output>\d+ shown</output>", shown)
    broken = pages[0].with_name("broken.html")
    broken.write_text(pages[0].read_text().replace("<main>", '<main><script>document.title = "x"</script>'))
    assert "Content Security Policy" in browse(broken, "--dump-dom")[1]  # and an error would be seen


def measured(page: Path, *options: str) -> tuple[str, int]:
    """The page's background as it is drawn, and by how many pixels it is wider than a phone's window."""
    probe = page.with_name(f"probe-{page.name}")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    root = "document.documentElement"
    measure = f"document.title = getComputedStyle({root}).backgroundColor + ';' + ({root}.scrollWidth - innerWidth)"
    probe.write_text(text.replace("</body>", f"<script>{measure}</script></body>"))
    found = re.search(r"<title>(.*);(-?\d+)</title>", browse(probe, "--dump-dom", "--window-size=500,900", *options)[0])
    assert found is not None
    return found.group(1), int(found.group(2))


def test_the_dark_setting_is_followed_and_a_phone_is_wide_enough(pages: list[Path]) -> None:
    assert measured(pages[0]) == ("rgb(255, 255, 255)", 0)
    for page in pages:
        assert measured(page, "--force-dark-mode") == ("rgb(20, 23, 27)", 0)  # --paper in page.css
