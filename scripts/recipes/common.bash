# What the recipes share; each is `bash scripts/recipes/NAME.sh`, with options of `styleforge train` behind it.
# Stopped at any time, the same command goes on. Afterwards: python scripts/zoo.py build NAME
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
shared="${SHARED:-../shared}"
data="$shared/data"
vgg="$shared/weights/vgg19_16x_encoder5.safetensors"  # what sees in losses; what judges is another network
runs="${RUNS:-runs/zoo}"

train() { "${PYTHON:-python}" -m styleforge train "$@" --license apache-2.0; }
adapt() { "${PYTHON:-python}" -m styleforge adapt "$@" --license apache-2.0; }

# What brought unpaired styles near to paintings, by KID and by grain, in 110 minutes of a core with AMX: the generator sees
# the picture at full size, and learns to make detail of it, from squares that were not resized. (Ours began without the
# base's discriminators; its first run was stopped after 2363 steps, in the middle of its decay; and in the first two
# --spectrum had earlier forms: of two batches, weight 1; and of means in no deviations, weight 10. A fourth run, at 256 px,
# made nothing better.) What is published is in "$run/equalized": how strong detail is, fitted to the same pictures.
detail() {
    local name="$1" base="$2" folder="$3" strength="$4" run="$runs/$1"
    local common=(--source "$folder/trainA" --target "$folder/trainB" --size 128 --zoom 2,2 --batch-size 2 --detail
        --discriminator-width 64 --discriminator-layers 2 --nce 1.5 --identity-l1 3 --projected 1 --features "$vgg"
        --spectrum 3 --shift-equivariance 10 --judge-every 0 --save-every 100 --ema 0.995)
    adapt "$base" "${common[@]}" --output "$run-1" --steps 3600 --lr-scale 1 --decay 0.5 \
        --discriminator-warmup 200 "${@:5}"
    adapt "$run-1" "${common[@]}" --output "$run-2" --steps 1100 --lr-scale 0.7 --decay 0.7 \
        --discriminator-warmup 120 "${@:5}"
    adapt "$run-2" "${common[@]}" --output "$run" --steps 420 --lr-scale 0.4 --decay 0.8 \
        --discriminator-warmup 80 "${@:5}"
    [ -e "$run/equalized" ] || "${PYTHON:-python}" -m styleforge equalize "$run" --source "$folder/trainA" \
        --target "$folder/trainB" --strength "$strength" --output "$run/equalized"
}

# A student of 0.4 MB; 25 minutes of a core. (Ours learnt with zeros at the borders of its blocks, which drew texture there:
# a stripe along the left edge, gone since they reflect.)
mini() {
    "${PYTHON:-python}" -m styleforge distill "$2" --features "$vgg" --target "$data/photo2classic/trainA" --size 192 \
        --zoom 1.0,1.4 --style 2 --shift-equivariance 3 --steps 3300 --decay 0.6 --lr-warmup 30 --ema 0.99 \
        --judge-every 0 --save-every 250 --license apache-2.0 --output "$runs/$1" "${@:3}"
}

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
