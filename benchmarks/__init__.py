"""This package's step beside other implementations; README.md in this folder says how."""
