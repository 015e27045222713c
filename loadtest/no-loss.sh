#!/usr/bin/env bash
# Upgrades and reloads a gateway again and again under a load of every kind at once, prints what
# became of each request, and fails when one was lost. Parameters come from the environment.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd)"
export NO_LOSS_UPGRADES="${NO_LOSS_UPGRADES:-50}"
export NO_LOSS_RELOADS="${NO_LOSS_RELOADS:-200}"
export NO_LOSS_TRANSFER_SECONDS="${NO_LOSS_TRANSFER_SECONDS:-20}"
export NO_LOSS_RATE="${NO_LOSS_RATE:-40}"

"$root/scripts/install-deps.sh" build
cd "$root"
exec "${CARGO:-cargo}" test --locked --test gateway -- \
  --exact no_loss::upgrades_and_reloads_lose_nothing --nocapture
