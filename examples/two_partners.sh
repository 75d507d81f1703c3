#!/usr/bin/env bash
# From nothing to a trained global model: a coordinator and two partners on this machine's loopback, each with processes
# and a folder of its own, TLS on, and nginx as the gateway where it is installed.
#
#   examples/two_partners.sh [FOLDER]     FOLDER must not exist; without it a temporary one is made and removed
#
# Ends with 0 only if everything went as it should, and leaves no process behind. A few minutes; needs no network.
# In earnest the two files and the two fingerprints would travel between organisations; here they travel between folders.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mmrec=${MMREC:-mmrec}
python=${PYTHON:-python}
export HF_HUB_OFFLINE=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

pids=()
temporary=""
finish() {
    code=$?
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ "$code" -ne 0 ]; then
        echo "FAILED with status $code" >&2
        tail -n 20 "$work"/*.log >&2 2>/dev/null || true
    fi
    [ -z "$temporary" ] || rm -rf "$temporary"
    exit "$code"
}

step() { printf '\n== %s\n' "$*"; }

if [ $# -gt 0 ]; then
    work=$1
    mkdir "$work"
else
    temporary=$(mktemp -d)
    work=$temporary
fi
work=$(cd "$work" && pwd)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$work"

free_ports() {
    "$python" -c '
import socket, sys
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in taken))' "$1"
}
read -r superlink gateway health north_port south_port <<<"$(free_ports 5)"
if command -v nginx >/dev/null; then public=$gateway; else public=$superlink; fi

fingerprint() { sed -n 's/^Fingerprint of [a-z.]*: *//p' "$1"; }

# wait_for FILE TEXT TIMES SECONDS
wait_for() {
    for _ in $(seq "$4"); do
        if [ "$(grep -c -- "$2" "$1" 2>/dev/null || true)" -ge "$3" ] 2>/dev/null; then return 0; fi
        for pid in "${pids[@]}"; do kill -0 "$pid" || { echo "a program has ended" >&2; return 1; }; done
        sleep 1
    done
    echo "'$2' did not come $3 times in $1 within $4 s" >&2
    return 1
}

step "Two made-up shops, and the catalogue that they share"
"$python" "$here/two_shops.py" make data north south
"$mmrec" features build data/catalogue bundle --dims 8 --encoder text=off --no-quality --store vectors

step "The coordinator founds the federation"
mkdir work
"$mmrec" federation init work/coordinator --name "Two shops" --address "127.0.0.1:$public" --features bundle | tee founded.txt
digest=$("$mmrec" coordinator bundle work/coordinator)

for name in north south; do
    step "Partner $name makes its site, and the coordinator enrols it"
    "$mmrec" site init "$name" --name "$name" --federation work/coordinator/federation.json \
        --fingerprint "$(fingerprint founded.txt)" --data "data/$name" --catalogue data/catalogue --features bundle | tee "$name.txt"
    "$mmrec" coordinator enrol work/coordinator --enrolment "$name/enrolment.json" --fingerprint "$(fingerprint "$name.txt")"
    sed -i "s/^allowed_bundles = .*/allowed_bundles = [\"$digest\"]/" "$name/policy.toml"
    grep -q "^allowed_bundles = \[\"$digest\"\]" "$name/policy.toml"
done

step "The coordinator plans a run, and each partner approves it"
"$python" "$here/two_shops.py" plan work/coordinator bundle plan.json
for name in north south; do "$mmrec" site approve "$name" plan.json --yes; done

step "The coordinator is served$([ "$public" = "$superlink" ] && echo ', without a gateway: nginx is not installed' || echo ' behind its gateway')"
if [ "$public" != "$superlink" ]; then
    "$mmrec" federation gateway work/coordinator --listen "127.0.0.1:$gateway" --superlink "127.0.0.1:$superlink" --health-port "$health"
    nginx -p "$work/work/coordinator/gateway/" -c "$work/work/coordinator/gateway/nginx.conf" -e stderr >gateway.log 2>&1 &
    pids+=($!)
fi
"$mmrec" coordinator serve work/coordinator --port "$superlink" >serve.log 2>&1 &
pids+=($!)
wait_for work/coordinator/log/coordinator.jsonl '"registered"' 2 120

step "The partners join"
for name in north south; do
    port=${name}_port
    "$mmrec" site join "$name" --port "${!port}" >"$name.log" 2>&1 &
    pids+=($!)
done
for name in north south; do wait_for "$name/log/node.jsonl" 'SuperNode ID' 1 120; done

step "The run"
"$mmrec" coordinator run work/coordinator plan.json --port "$superlink"

step "What the model recommends to somebody who has seen i1 and i3"
"$python" "$here/two_shops.py" model work/coordinator bundle
"$python" -c '
from mmrec_model import MultimodalRecommender
found = MultimodalRecommender.load("work/model").recommend(history=["i1", "i3"], k=3)
print(*(f"{item} {score:.3f}" for item, score in found), sep="\n")'

for name in north south; do
    step "What it cost $name"
    "$mmrec" site budget "$name"
done
step "Done in $SECONDS s"
