# One seed: noise, audit, answers, two teachers, four students: bash seed.sh SEED MANIFEST
set -e
S=$1; H=$2
mkdir -p cache
[ -f cache/ham10000/frozen/seed0.h5 ] || trustq extract $H --recipe lite0-frozen --name frozen
python labels.py draw $H cache/ham10000/frozen/seed0.h5 $S
trustq audit labels embeddings$S.npz --review 1300 --out audit$S --results audit$S/results
python labels.py answer $H $S | tee found$S.txt
trustq audit apply audit$S --answers audit$S/truth.csv --out cleaned$S.csv
teach() { trustq extract $H --recipe teacher.toml --seeds $S --name $1 --observed $2; }
teach noisy noisy$S.csv
teach repaired cleaned$S.csv
student() { # name, teacher, labels
  trustq distil cache/ham10000/$2/seed$S.h5 --manifest $H --student efficientnet_lite0 \
    --name $1 --seeds $S --observed $3 --set weights=package:efficientnet-lite0 \
    --set classifier_start=zero --set image_size=64 --set batch_size=64 --set epochs=4 \
    --set warmup_epochs=1 --set stored_draws=3 --set trained_stages=2 --set transpose=true \
    --set rotation=0 --set colour_jitter=0.15 --set random_crop=0.7 --set drop_rate=0.3 \
    --set ema=0.99
}
student both_noisy noisy noisy$S.csv
student both_repaired repaired cleaned$S.csv
student teacher_repaired repaired noisy$S.csv
student labels_repaired noisy cleaned$S.csv
