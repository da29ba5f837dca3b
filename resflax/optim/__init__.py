"""Schedules, optimizers and decay masks."""
