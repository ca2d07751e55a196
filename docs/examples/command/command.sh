#!/usr/bin/env bash
# Has a device do something and prints what became of it: bash command.sh API_URL TOKEN DEVICE [NAME [PARAMS]]
set -euo pipefail
api=$1 token=$2 device=$3 name=${4:-blink} params=${5:-'{"times":3}'}

# One key for one wish: whatever goes wrong on the way, asking again with it never makes the device do it twice.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

# Waits up to 20 s for the device's answer. curl asks again on its own where that helps (503, no answer).
answer=$(curl -sS --fail-with-body --retry 5 --retry-connrefused --max-time 30 \
    -X POST "$api/v1/devices/$device/commands" \
    -H "Authorization: Bearer $token" -H "Idempotency-Key: $key" -H "Content-Type: application/json" \
    -d "{\"name\":\"$name\",\"params\":$params,\"ttl_s\":60,\"wait_s\":20}") || { echo "$answer" >&2; exit 1; }
echo "$answer"
[[ $answer == *'"state":"succeeded"'* ]]
