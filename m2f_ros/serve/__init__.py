"""Segments images over HTTP."""
