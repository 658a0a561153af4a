#!/usr/bin/env bash
# Records what fleet, trigger and the reaper send to the local cloud in their tests, a day of batches with what goes wrong in
# one, and holds it against the API model of botocore and the policies of deploy/iam. Wants moto's environment, which has
# botocore (tests/py/moto_server.sh installs it), and the built programs in SPOTREEL_BIN_DIR.
set -Eeuo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
records=$(mktemp -d)
cloud=
trap '[ -z "$cloud" ] || kill "$cloud" 2>/dev/null; rm -rf "$records"' EXIT

# record NAME NEXTEST-ARGUMENTS…
record() {
  local dir=$records/$1
  shift
  mkdir "$dir"
  SPOTREEL_LOCALCLOUD_RECORD=$dir cargo nextest run --locked --workspace "$@"
}

# What a person sends who makes the launch template and looks for what is left.
record_person() {
  local dir=$records/person address
  mkdir "$dir"
  "$SPOTREEL_BIN_DIR/spotreel-localcloud" --listen 127.0.0.1:0 --dir "$records/cloud" --record "$dir/requests.jsonl" \
    >"$records/ready" &
  cloud=$!
  until address=$(sed -n 's/^ready s3=\([^ ]*\).*/\1/p' "$records/ready") && [ -n "$address" ]; do
    kill -0 "$cloud"
    sleep 0.1
  done
  export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local-secret
  "$SPOTREEL_BIN_DIR/spotreel" fleet template --endpoint "$address" --env test --ami ami-0abcdef1234567890 \
    --security-group sg-0123456789abcdef0 --instance-profile spotreel-worker --tag cost-center=42 --user-data - \
    <<<$'#!/bin/bash\nexec sleep 600'
  "$SPOTREEL_BIN_DIR/spotreel" fleet reap --endpoint "$address" --env test --all
  kill "$cloud"
  wait "$cloud" || true
  cloud=
}

# check NAME ARGUMENTS…
check() {
  local dir=$records/$1
  shift
  "$root/.venv-moto/bin/python3" "$root/tests/py/ec2_requests.py" "$dir" "$@"
}

record fleet --test fleet --test refused_launches
record trigger --test trigger
record reaper --test fleet_matrix -E 'test(c17)'
record_person

looks=DescribeInstances,DescribeInstanceTypes,DescribeInstanceTypeOfferings,DescribeSubnets,DescribeSpotPriceHistory
looks+=,DescribeLaunchTemplates,DescribeLaunchTemplateVersions,GetServiceQuota
check fleet --policy "$root/deploy/iam/fleet.json" \
  --must "$looks,CreateFleet,TerminateInstances,DeleteFleets,GetConsoleOutput,CreateLaunchTemplate,CreateLaunchTemplateVersion"
check trigger --policy "$root/deploy/iam/trigger.json" \
  --must DescribeInstanceTypes,DescribeSpotPriceHistory,GetServiceQuota
check reaper --must DescribeInstances,TerminateInstances
check person --must CreateLaunchTemplate,CreateLaunchTemplateVersion,DescribeLaunchTemplates,DescribeInstances
