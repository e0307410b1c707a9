"""A program that tells what it was given, and warns."""

import os
import sys
import warnings

if __name__ == "__main__":
    print(__name__, sys.argv[1:], dict(os.environ), os.getcwd(), [sys.stdin.read()])
    warnings.warn("old", DeprecationWarning, stacklevel=1)
