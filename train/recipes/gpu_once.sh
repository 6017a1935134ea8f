#!/bin/sh
# Run gpu_once on a machine without a network; the wheels that it lacks are in a folder, $WHEELS (default: .whl).
#     OUT=out sh train/recipes/gpu_once.sh [arguments of gpu_once]
# Needs python3 with torch; writes the files to bring back into $OUT.
set -eu
root=$(cd -P "$(dirname "$0")/../.." && pwd)
wheels=${WHEELS:-$root/.whl}
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$packages" "$wheels"/*.whl
PYTHONPATH="$root:$packages${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
cd "$root"
python3 -m dianjing.train.recipes.gpu_once --out "${OUT:-out}" "$@"
