"""What all tests share: how Hypothesis draws."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No test fails for being slow: a busy machine is no fault. What else holds (such as CI's fixed seed) stays.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
