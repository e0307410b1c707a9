"""The documentation, and in `docs.generator` what draws its reference tables from the code."""
