# What the recipes share; each is `bash scripts/recipes/NAME.sh`, with options of `styleforge train` behind it.
# Stopped at any time, the same command goes on. Afterwards: python scripts/zoo.py build NAME
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
shared="${SHARED:-../shared}"
data="$shared/data"
vgg="$shared/weights/vgg19_16x_encoder5.safetensors"  # what sees in losses; what judges is another network
runs="${RUNS:-runs/zoo}"

train() { "${PYTHON:-python}" -m styleforge train "$@" --license apache-2.0; }

# Fast style of one painting, in two stages: the second takes away a grid that the first one leaves.
fast() {
    local name="$1" painting="$data/demo/style/$2"
    local common=(--features "$vgg" --source "$data/photo2classic/trainA" --target "$painting" --size 192
        --zoom 1.0,1.5 --batch-size 4 --save-every 100)
    train fast_style "${common[@]}" --output "$runs/$name-1" --steps 700 --decay 0.4 --ema 0.99 "${@:3}"
    train fast_style "${common[@]}" --output "$runs/$name" --init "$runs/$name-1" --steps 400 --decay 0.5 --ema 0.98 \
        --shift-equivariance 5 --tv 0.2 --style 7 "${@:3}"
}

# One kind of damage undone.
restore() {
    train restore --kinds "$2" --target "$data/photo2classic/trainA" --test-target "$data/photo2classic/testA" \
        --size 128 --zoom 1.0,2.5 --batch-size 8 --decay 0.6 --lr-warmup 30 --ema 0.995 --judge-every 500 \
        --save-every 250 --width 32 --output "$runs/$1" "${@:3}"
}
