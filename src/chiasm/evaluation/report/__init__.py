"""One self-contained HTML page that shows what was trained, how good it is, and where it fails."""

from chiasm.evaluation.report.page import write_report

__all__ = ["write_report"]
