#!/bin/bash
# A worker's machine on EC2, from its first second to its last. `spotreel_domain::user_data` fills the marks in.
# The launch template must say InstanceInitiatedShutdownBehavior=terminate: powering off is how the machine goes.

# First of all the timers: whatever happens below, the machine ends. Two of them, because each has failed somewhere.
shutdown -P +@@MAX_LIFE_MINUTES@@ || true
systemd-run --unit=spotreel-max-life --on-active=@@MAX_LIFE_MINUTES@@min systemctl poweroff || true

# A step that fails ends the machine at once: half a worker costs as much as a whole one.
end_on_failure() {
  local code=$?
  [ "$code" -eq 0 ] && return
  echo "spotreel: the set-up failed with code $code; the machine ends"
  systemctl poweroff || shutdown -P now
}
trap end_on_failure EXIT
set -Eeuo pipefail
umask 077

# Both are empty on a real machine; tests set them.
ROOT="${SPOTREEL_ROOT:-}"
METADATA="${SPOTREEL_METADATA:-http://169.254.169.254}"
IMAGE='@@IMAGE@@'
PARAMETERS='@@PARAMETERS@@'
MODELS_BUCKET='@@MODELS_BUCKET@@'
MODELS_IMAGE='@@MODELS_IMAGE@@'
MODELS="$ROOT/var/lib/spotreel/models"
VARIABLES="$ROOT/run/spotreel/worker.env"

# The log is kept, and the console shows it even when nobody can log in.
mkdir -p "$ROOT/var/log" "$ROOT/run/spotreel" "$ROOT/etc/systemd/system" "$MODELS"
exec > >(tee -a "$ROOT/var/log/spotreel-user-data.log" "${SPOTREEL_CONSOLE:-/dev/console}") 2>&1

imds() { curl --silent --show-error --fail --max-time 5 --retry 5 --retry-connrefused "$@"; }
token=$(imds -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$METADATA/latest/api/token")
metadata() { imds -H "X-aws-ec2-metadata-token: $token" "$METADATA/latest/meta-data/$1"; }
AWS_DEFAULT_REGION=$(metadata placement/region)
export AWS_DEFAULT_REGION
instance=$(metadata instance-id)
pool=$(metadata tags/instance/spotreel:pool)
echo "spotreel: $instance of pool $pool in $AWS_DEFAULT_REGION"

# Models lie on the local disk of the machine where it has one: the network volume reads ten times slower. They belong to
# user 10001, as whom both images run. Without a bucket the worker's image brings them.
volume=
if [ -n "$MODELS_BUCKET" ]; then
  volume="--volume $MODELS:/models"
  disk=$(lsblk --nodeps --noheadings --output PATH,MODEL | awk '/Instance Storage/ { print $1; exit }')
  if [ -n "$disk" ]; then
    mkfs.ext4 -q -F -E nodiscard "$disk"
    mount -o noatime "$disk" "$MODELS"
  fi
  chown 10001:10001 "$MODELS"
  chmod 755 "$MODELS"
fi

pull_image() {
  local registry="${1%%/*}"
  case "$registry" in
    *.dkr.ecr.*) aws ecr get-login-password | docker login --username AWS --password-stdin "$registry" ;;
  esac
  timeout "$2" docker pull --quiet "$1"
}

# The worker's image is gigabytes, this one is here in seconds; first, since docker has few connections. Whatever becomes
# of it is no matter: the worker fetches what is missing.
read_ahead() {
  [ -n "$MODELS_IMAGE" ] || return 0
  if pull_image "$MODELS_IMAGE" 2m &&
    docker run --detach --name spotreel-models --network host --env AWS_REGION="$AWS_DEFAULT_REGION" \
      --volume "$MODELS:/models" "$MODELS_IMAGE" \
      spotreel models pull @@MODELS@@ --bucket "$MODELS_BUCKET" --packs /models; then
    echo "spotreel: models are read ahead"
  else
    echo "spotreel: no models are read ahead; the worker fetches them"
  fi
}

# One at a time pulls into a directory. What is there stays, half a file too.
end_reading() {
  [ -n "$MODELS_IMAGE" ] || return 0
  docker logs --tail 5 spotreel-models || true
  docker rm --force spotreel-models || true
}

# The images and the parameters come at the same time.
{
  read_ahead
  pull_image "$IMAGE" 30m
} &
image_pulled=$!

# Each parameter is a key of the worker's configuration: .../nats.url, .../nats.password. They go to memory, not to
# the disk, and never through the log.
{
  echo 'SPOTREEL_WORKER_IDLE__EXIT_AFTER=@@IDLE@@'
  echo 'SPOTREEL_WORKER_CLOUD__METADATA=on'
  echo 'SPOTREEL_WORKER_MODELS=@@MODELS_LIST@@'
  if [ -n "$MODELS_BUCKET" ]; then
    echo "SPOTREEL_WORKER_PACKS__BUCKET=$MODELS_BUCKET"
    echo 'SPOTREEL_WORKER_PACKS__DIR=/models'
  fi
  aws ssm get-parameters-by-path --with-decryption --recursive --path "$PARAMETERS" \
    --query 'Parameters[].[Name,Value]' --output text |
    while IFS=$'\t' read -r name value; do
      key=${name##*/}
      key=${key//./__}
      echo "SPOTREEL_WORKER_${key^^}=$value"
    done
} >"$VARIABLES"
for key in NATS__URL NATS__PASSWORD; do
  if ! grep -q "^SPOTREEL_WORKER_$key=." "$VARIABLES"; then
    echo "spotreel: no parameter for $key under $PARAMETERS"
    exit 1
  fi
done

# A clean end of the worker ends the machine; so does a refused configuration (2). After a crash it is started again,
# three times.
cat >"$ROOT/etc/systemd/system/spotreel-worker.service" <<UNIT
[Unit]
Description=spotreel worker
Requires=docker.service
After=docker.service network-online.target
StartLimitIntervalSec=24h
StartLimitBurst=4
StartLimitAction=poweroff

[Service]
ExecStartPre=-/usr/bin/docker rm --force spotreel-worker
ExecStart=/usr/bin/docker run --rm --name spotreel-worker --network host @@GPUS@@ --env-file $VARIABLES $volume $IMAGE
ExecStopPost=/bin/sh -c 'case "\$\$EXIT_STATUS" in 0|2) systemctl poweroff ;; esac'
Restart=on-failure
RestartPreventExitStatus=2
RestartSec=5
KillMode=mixed
TimeoutStopSec=100
UNIT
chmod 644 "$ROOT/etc/systemd/system/spotreel-worker.service"

wait "$image_pulled"
end_reading
systemctl daemon-reload
systemctl start spotreel-worker.service
echo "spotreel: the worker is started"
