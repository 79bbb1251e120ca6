"""refimpl against implementations that this project did not write: ``python -m tests.crosscheck`` (README.md here).

Not part of the test run: each oracle is a package of its own (requirements.txt). A check is a generator of rows.
"""
