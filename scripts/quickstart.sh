#!/usr/bin/env bash
# From a fresh clone to a styled picture: bash scripts/quickstart.sh [PHOTO]
# Without PHOTO it takes one that comes with scikit-learn (the Summer Palace, CC BY 2.0).
set -euo pipefail
photo="${1:+$(realpath "$1")}"
cd "$(dirname "$0")/.."
echo "Setting up .venv (a few minutes the first time)..."
bash scripts/setup.sh examples
if [ -z "$photo" ]; then
    photo=$(.venv/bin/python -c 'import importlib.util as u, pathlib
print(pathlib.Path(u.find_spec("sklearn").origin).parent / "datasets/images/china.jpg")')
fi
export HF_HUB_OFFLINE=1  # the bundled style needs no Hub
.venv/bin/styleforge stylize "$photo" --output "$PWD/quickstart/$(basename "${photo%.*}")-styled.png"
