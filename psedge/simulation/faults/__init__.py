"""Faults of the virtual world: plans, random schedules, their injection, and their shrinking."""
