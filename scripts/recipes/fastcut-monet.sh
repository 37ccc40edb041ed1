#!/usr/bin/env bash
# fastcut-monet: landscape photographs to Monet's brush; the bundled default style.
# Data: ../shared/data/photo2impressionist (313 photographs; the 64 of its training paintings that are Monet's).
# About 80 minutes on 2 CPU cores with AVX512-BF16 (shared with other work). Stop it at any time; the same command
# goes on. Honest expectation: Monet's colours after 1,000 steps, his brushwork on trees and water after 6,000.
set -euo pipefail
cd "$(dirname "$0")/../.."
data="${DATA:-../shared/data}/photo2impressionist"
run="${RUN:-runs/fastcut-monet}"
monet="runs/data/monet"
mkdir -p "$monet"
# The authors stand in the manifest; the same canvas in several crops counts as several pictures.
"${PYTHON:-python}" - "$data" "$monet" <<'PY'
import csv, os, sys
data, monet = (os.path.abspath(p) for p in sys.argv[1:])
for row in csv.DictReader(open(f"{data}/manifest.csv")):
    link = os.path.join(monet, os.path.basename(row["file"]))
    if row["file"].startswith("trainB") and row["author"].startswith("Claude Monet") and not os.path.lexists(link):
        os.symlink(os.path.join(data, row["file"]), link)
PY
exec "${PYTHON:-python}" -m styleforge train fastcut \
    --source "$data/trainA" --target "$monet" --output "$run" \
    --size 128 --zoom 1.25,2.0 --batch-size 2 --steps "${STEPS:-14000}" --decay 0.4 --save-every 500 --sample-every 500 \
    --width 32 --blocks 6 --discriminator-width 64 --discriminator-layers 2 --nce 1.5 \
    --license apache-2.0 "$@"
