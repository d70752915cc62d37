"""Collects what examples post, on this machine only, and shows it on a live page.

Used by `python -m ringdispatch collector`; nothing in the library imports it.
"""
