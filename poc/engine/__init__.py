"""Hallmark."""
