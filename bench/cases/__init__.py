"""One module for each case, named by its letter; `measure(stage)` returns its figures."""
