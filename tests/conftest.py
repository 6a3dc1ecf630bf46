"""What all tests need: peers that can be imported before anything looks for them, and no verdicts by the clock."""

from hypothesis import HealthCheck, settings

from tests import peers  # noqa: F401  # before any class of transformers is touched

# A busy machine draws slowly; that says nothing of the code.
settings.register_profile("chiasm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chiasm")
