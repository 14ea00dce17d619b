"""Pairs of blurred and sharp images: made here from photographs, or read from folders as they were published."""
