"""A local page that searches an index: one process, one user, nothing from outside."""

from chiasm.serving.page.app import make_app, serve

__all__ = ["make_app", "serve"]
