"""pytest loads this before its plugins, as pyproject.toml says.

nbval brings jsonschema, which builds a grammar of internationalised addresses when it is imported: three seconds in
each process of the tests. No notebook has such an address, and jsonschema works without the grammar's package.
"""
import sys

sys.modules.setdefault("rfc3987_syntax", None)
