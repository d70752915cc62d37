"""`python -m ringdispatch spool`: looks after what ended processes left in a spool."""
