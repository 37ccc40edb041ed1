#!/usr/bin/env bash
# fastcut-monet: landscape photographs to Monet's brush; bundled.
# Data: ../shared/data/photo2impressionist (313 photographs; the 64 of its training paintings that are Monet's).
# Three stages, about 80 minutes on 2 CPU cores with AVX512-BF16. The first lets colors drift (green hills turn brown) and,
# with zero padding, would in time learn stripes along the edges; the second adds an L1 identity term and reflects; the
# third removes a grid of 4 px. (One stage with the settings of the third should do as well; this is what was run.) Stop
# it at any time; the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
data="${DATA:-../shared/data}/photo2impressionist"
run="${RUN:-runs/fastcut-monet}"
monet="runs/data/monet"
python="${PYTHON:-python}"
mkdir -p "$monet"
# The authors stand in the manifest; the same canvas in several crops counts as several pictures.
"$python" - "$data" "$monet" <<'PY'
import csv, os, sys
data, monet = (os.path.abspath(p) for p in sys.argv[1:])
for row in csv.DictReader(open(f"{data}/manifest.csv")):
    link = os.path.join(monet, os.path.basename(row["file"]))
    if row["file"].startswith("trainB") and row["author"].startswith("Claude Monet") and not os.path.lexists(link):
        os.symlink(os.path.join(data, row["file"]), link)
PY
common=(--source "$data/trainA" --target "$monet" --size 128 --zoom 1.25,2.0 --batch-size 2
    --width 32 --blocks 6 --discriminator-width 64 --discriminator-layers 2
    --save-every 500 --sample-every 500 --license apache-2.0 "$@")
"$python" -m styleforge train fastcut "${common[@]}" --output "$run-1" --steps 4180 --decay 0 --nce 1.5 \
    --border zero
"$python" -m styleforge train fastcut "${common[@]}" --output "$run-2" --init "$run-1" \
    --steps "${STEPS:-3400}" --decay 0.5 --nce 1.5 --identity-l1 3
exec "$python" -m styleforge train fastcut "${common[@]}" --output "$run" --init "$run-2" --steps 1200 --decay 0.5 \
    --ema 0.99 --nce 1.5 --identity-l1 3 --shift-equivariance 10
