#!/usr/bin/env bash
# papermill 2.7.0 hands a notebook other values than it was given, without an error or a warning.
#
# A tuple arrives as text, and the keys of a dict that are numbers arrive as texts. So seeds=(0, 1) is six characters to
# a loop over seeds, and a dict by number has none of the numbers that it is asked for.
#
# Versions: papermill 2.7.0, ipykernel 7.4.0, Python 3.11.7.
# Date: 2026-11-29.
# Output:
#     given: (0, 1) {10: 'ten'}
#     seen:  '(0, 1)' {'10': 'ten'}
#
# Run: findings/papermill_parameter_types.sh. It installs pinned packages into a temporary folder, and fails if papermill
# does otherwise.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet papermill==2.7.0 ipykernel==7.4.0

cat > "$folder/try.py" <<'PYTHON'
import sys

import nbformat
import papermill

folder = sys.argv[1]
parameters = nbformat.v4.new_code_cell("seeds = names = None", metadata={"tags": ["parameters"]})
shown = nbformat.v4.new_code_cell("print(repr(seeds), repr(names))")
kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
nbformat.write(nbformat.v4.new_notebook(cells=[parameters, shown], metadata=kernel), f"{folder}/in.ipynb")
given = {"seeds": (0, 1), "names": {10: "ten"}}
done = papermill.execute_notebook(f"{folder}/in.ipynb", f"{folder}/out.ipynb", given, progress_bar=False)
print("".join(output["text"] for output in done.cells[-1].outputs if "text" in output).strip())
PYTHON

seen=$("$folder/venv/bin/python" "$folder/try.py" "$folder" 2> "$folder/errors") || { cat "$folder/errors"; exit 1; }
wanted="'(0, 1)' {'10': 'ten'}"
echo "given: (0, 1) {10: 'ten'}"
echo "seen:  $seen"
[ "$seen" = "$wanted" ] || { echo "changed: $wanted was expected"; exit 1; }
