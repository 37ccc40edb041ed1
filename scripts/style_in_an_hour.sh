#!/usr/bin/env bash
# From two folders, photographs and paintings, to a style that can be published, in an hour on 2 CPU cores:
#   bash scripts/style_in_an_hour.sh SOURCE TARGET [OUTPUT]
# OUTPUT/style is the repository: weights, card, previews, metrics. A tenth of the pictures is kept apart to measure it.
# Stopped at any time, the same command goes on. Where `styleforge data check` objects, it does not begin.
# Environment: BUDGET_MINUTES (60, for everything), BASE (published style to go on from, of cut or fastcut;
# fastcut-impressionist by itself; "none" begins from nothing), FEATURES (what the second discriminator looks through: a file of
# VGG-19's weights, a small one is quicker; "vgg19", from the Hub, by itself; "none" goes without, and does not come near),
# JUDGE (weights of SqueezeNet 1.0, for the distance to paintings),
# LICENSE (of the weights, as the Hub names it), PICTURE and CREDIT (a photograph that may be shown, for before and after
# on the card, and whose it is), PYTHON (python), CHECK=no (begin, whatever the check says).
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,11s/^# //p' "$0" >&2; exit 2; }
source="$(realpath "$1")" target="$(realpath "$2")" output="${3:-runs/style-in-an-hour}"
[[ $output = /* ]] || output="$PWD/$output"
training=$((${BUDGET_MINUTES:-60} * 54))  # seconds; a tenth is for reading, measuring, and the card
styleforge() { "${PYTHON:-python}" -m styleforge "$@"; }

if [ ! -e "$output/train.json" ] && ! styleforge data check "$source" "$target" --size 128; then
    [ "${CHECK:-yes}" = no ] || { echo "Put this right, or begin with CHECK=no." >&2; exit 1; }
fi

# The same pictures are kept apart at every start: a hash of their names decides.
"${PYTHON:-python}" - "$source" "$target" "$output/data" <<'PY'
import sys
from pathlib import Path

from styleforge.data import hold_out, list_pictures

source, target, output = map(Path, sys.argv[1:])
for side, folder in (("A", source), ("B", target)):
    names = [str(file.relative_to(folder)) for file in list_pictures(folder)]
    for part, chosen in zip(("train", "test"), hold_out(names, 0.1, 0), strict=True):
        for link in (output / f"{part}{side}" / name for name in chosen):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.is_symlink() or link.symlink_to(folder / link.relative_to(output / f"{part}{side}"))
PY

# At 128 px: a published style of half of the full width knows what a photograph is and what paint is. From nothing the full
# width would see too little in an hour. Shift equivariance leaves no grid; the identity term keeps colors from
# drifting; the projected discriminator knows paint from the first step on. (No --spectrum: while pictures are far from
# paintings it drowns all else; the equalizer at the end does what is left of its work.)
base="${BASE:-fastcut-impressionist}" features="${FEATURES:-vgg19}"
projected=(--projected 1 --features "$features")
[ "$features" != none ] || projected=(--projected 0)  # bash of macOS takes an empty one for a name that is not set
train() {
    local begin=(adapt "$base") given=(--zoom 2,2 --detail --discriminator-width 64 --lr-scale 1 --discriminator-warmup 60)
    if [ "$base" = none ]; then
        begin=(train fastcut)
        given=(--zoom 1.5,2.0 --width 32 --blocks 6 --downsample blur --upsample blur)
    fi
    styleforge "${begin[@]}" --source "$output/data/trainA" --target "$output/data/trainB" --output "$output" \
        --size 128 --batch-size 2 --discriminator-layers 2 --discriminator-downsample blur --nce 1.5 --identity-l1 3 \
        --shift-equivariance 10 "${projected[@]}" --ema 0.99 --log-every 10 --save-every 100 --sample-every 500 \
        "${given[@]}" ${LICENSE:+--license "$LICENSE"} "$@"
}
# How many steps there is time for is measured first, because the learning rate must have fallen when they end.
if [ ! -e "$output/steps" ]; then
    train --steps 100 --decay 0
    "${PYTHON:-python}" - "$output" "$training" <<'PY'
import json, statistics, sys
from pathlib import Path

run, seconds = Path(sys.argv[1]), float(sys.argv[2])
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
speed = statistics.median(speeds[-4:])  # before, new discriminators learn alone
(run / "steps").write_text(str(max(100, int(0.95 * seconds * speed / 2))))
PY
fi
train --steps "$(cat "$output/steps")" --max-seconds "$((training * 11 / 10))"

# Detail as strong as that of the paintings. A run that goes on writes its style anew, without.
rm -rf "$output/equalized" "$output/plain"
styleforge equalize "$output" --source "$output/data/trainA" --target "$output/data/trainB" --output "$output/equalized"
mv "$output/style" "$output/plain"
mv "$output/equalized" "$output/style"

styleforge evaluate "$output" --source "$output/data/testA" --target "$output/data/testB" \
    --output "$output/evaluation" ${JUDGE:+--judge "$JUDGE"}
cp "$output/evaluation/metrics.json" "$output/style/metrics.json"
styleforge card "$output" ${LICENSE:+--license "$LICENSE"} ${PICTURE:+--picture "$PICTURE"} \
    ${CREDIT:+--credit "$CREDIT"}
styleforge card "$output" --check || echo "The card is to be completed before others see it."
echo "Look at $output/evaluation/report.html, then: styleforge push $output ORGANISATION/NAME"
