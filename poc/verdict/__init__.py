"""Judging claims: tests of hypotheses, calibration, sampling, settings that differ."""
