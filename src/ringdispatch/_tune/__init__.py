"""Measures a dispatcher under load, predicts what it will do, and recommends options.

Used by `python -m ringdispatch tune` and by the benchmark suite; nothing in the core
imports it.
"""
