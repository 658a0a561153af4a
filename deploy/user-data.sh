#!/bin/bash
# A worker's machine on EC2, from its first second to its last. `spotreel_ec2::UserData` fills the marks in.
# The launch template must say InstanceInitiatedShutdownBehavior=terminate: powering off is how the machine goes.

# Variables SPOTREEL_* are empty on a real machine; tests set them.
ROOT="${SPOTREEL_ROOT:-}"
STATE="$ROOT/var/lib/spotreel"

# First of all the timers: whatever happens below, the machine ends. Two of them, because each has failed somewhere. A
# reboot forgets both: then this script runs again and sets them to what is left of the machine's life.
minutes=@@MAX_LIFE_MINUTES@@
ends=$(cat "$STATE/ends" 2>/dev/null)
if [ -n "$ends" ]; then
  left=$(((ends - $(date +%s)) / 60))
  [ "$left" -ge "$minutes" ] || minutes=$((left > 0 ? left : 0))
fi
shutdown -P "+$minutes" || true
systemd-run --unit=spotreel-max-life --on-active="${minutes}min" systemctl poweroff || true

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

METADATA="${SPOTREEL_METADATA:-http://169.254.169.254}"
IMAGE='@@IMAGE@@'
PARAMETERS='@@PARAMETERS@@'
BUCKET='@@BUCKET@@'
MODELS_BUCKET='@@MODELS_BUCKET@@'
MODELS_IMAGE='@@MODELS_IMAGE@@'
GPUS='@@GPUS@@'
MODELS="$STATE/models"
UNITS="$ROOT/etc/systemd/system"
VARIABLES="$ROOT/run/spotreel/worker.env"

# The log is kept, and the console shows it even when nobody can log in.
mkdir -p "$ROOT/var/log" "$ROOT/run/spotreel" "$UNITS" "$MODELS"
exec > >(tee -a "$ROOT/var/log/spotreel-user-data.log" "${SPOTREEL_CONSOLE:-/dev/console}") 2>&1

# cloud-init runs this once in a machine's life; after a reboot, a unit does. It starts the timers and the worker, and
# reads the secrets, which lie in memory only, anew.
[ -n "$ends" ] || echo "$(($(date +%s) + minutes * 60))" >"$STATE/ends"
[ "$0" -ef "$STATE/boot.sh" ] || cp "$0" "$STATE/boot.sh"
cat >"$UNITS/spotreel-boot.service" <<UNIT
[Unit]
Description=spotreel: sets the machine up after a reboot
Wants=network-online.target
After=network-online.target docker.service

[Service]
Type=oneshot
ExecStart=/bin/bash $STATE/boot.sh

[Install]
WantedBy=multi-user.target
UNIT
chmod 644 "$UNITS/spotreel-boot.service"
systemctl enable spotreel-boot.service

# Nothing may replace the driver or docker under a render. Units that an image lacks are no matter.
upgrades=(apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service
  unattended-upgrades.service dnf-automatic.timer dnf-automatic-install.timer)
systemctl mask "${upgrades[@]}" || true
systemctl stop --no-block "${upgrades[@]}" || true

# Many machines boot at the same moment: AWS's limits are waited out.
export AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=8
imds() { curl --silent --show-error --fail --max-time 5 --retry 5 --retry-connrefused "$@"; }
token=$(imds -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$METADATA/latest/api/token")
metadata() { imds -H "X-aws-ec2-metadata-token: $token" "$METADATA/latest/meta-data/$1"; }
AWS_DEFAULT_REGION=$(metadata placement/region)
export AWS_DEFAULT_REGION
instance=$(metadata instance-id)
pool=$(metadata tags/instance/spotreel:pool)
echo "spotreel: $instance of pool $pool in $AWS_DEFAULT_REGION"

# Where a disk, or a volume that is striped over it, is mounted.
mounted_at() {
  lsblk --noheadings --list --output PATH,MODEL,MOUNTPOINT "$1" |
    awk '$NF ~ "^/." && $NF !~ "^/dev/" && !found++ { print $NF }'
}

# Models lie on the local disk of the machine where it has one: the network volume reads ten times slower. AWS's Deep
# Learning AMIs have mounted it already, and after a reboot it has our file system. Models belong to user 10001, as whom
# both images run. Without a bucket the worker's image brings them.
volume=
if [ -n "$MODELS_BUCKET" ]; then
  disk=$(lsblk --nodeps --noheadings --output PATH,MODEL | awk '/Instance Storage/ && !found++ { print $1 }')
  if [ -n "$disk" ]; then
    mounted=$(mounted_at "$disk")
    if [ -n "$mounted" ]; then
      echo "spotreel: the image has mounted $disk at $mounted"
      MODELS="$ROOT$mounted/spotreel-models"
      mkdir -p "$MODELS"
    else
      [ "$(lsblk --nodeps --noheadings --output LABEL "$disk")" = spotreel ] ||
        mkfs.ext4 -q -F -L spotreel -E nodiscard "$disk"
      mount -o noatime "$disk" "$MODELS"
    fi
  fi
  volume="--volume $MODELS:/models"
  chown 10001:10001 "$MODELS"
  chmod 755 "$MODELS"
fi

log_in() {
  case "$1" in
    *.dkr.ecr.*) aws ecr get-login-password | docker login --username AWS --password-stdin "$1" ;;
  esac
}

# pull_image IMAGE LIMIT TRIES: a registry that is asked too often says 429, and each fails at times. Pauses grow, and
# differ between machines that booted together. What cannot be had at all is not asked for again.
pull_image() {
  local said try pause=5
  for ((try = 1; ; try++)); do
    said=$( (log_in "${1%%/*}" && timeout "$2" docker pull --quiet "$1") 2>&1) && return
    echo "spotreel: try $try to pull $1 failed: $said"
    case "$said" in
      *'manifest unknown'* | *'not found'* | *denied* | *AccessDenied* | *'no basic auth'*) return 1 ;;
    esac
    [ "$try" -lt "$3" ] || return 1
    sleep "$((pause + RANDOM % 5))"
    pause=$((pause < 30 ? pause * 2 : 60))
  done
}

# The worker's image is gigabytes, this one is here in seconds; first, since docker has few connections. Whatever becomes
# of it is no matter: the worker fetches what is missing.
read_ahead() {
  [ -n "$MODELS_IMAGE" ] || return 0
  if pull_image "$MODELS_IMAGE" 2m 2 &&
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
  pull_image "$IMAGE" 30m 8
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

# The value of a key such as S3__BUCKET; empty: there is none.
parameter() { sed -n "s/^SPOTREEL_WORKER_$1=//p" "$VARIABLES" | tail -n 1; }

# The bucket may stand in the launch template, and is in the machine's region unless a parameter names another one.
[ -n "$(parameter S3__BUCKET)" ] || echo "SPOTREEL_WORKER_S3__BUCKET=$BUCKET" >>"$VARIABLES"
[ -n "$(parameter S3__REGION)" ] || echo "SPOTREEL_WORKER_S3__REGION=$AWS_DEFAULT_REGION" >>"$VARIABLES"
missing=
for name in nats.url nats.password s3.bucket s3.region; do
  key=${name//./__}
  [ -n "$(parameter "${key^^}")" ] || missing+=" $name"
done
if [ -n "$missing" ]; then
  echo "spotreel: missing under $PARAMETERS in the parameter store:$missing"
  exit 1
fi

# check_bucket NAME BUCKET PREFIX: what a worker would find out after gigabytes of images is said now.
region=$(parameter S3__REGION)
endpoint=$(parameter S3__ENDPOINT_URL)
s3() { aws s3api "$@" --region "$region" ${endpoint:+--endpoint-url "$endpoint"}; }
check_bucket() {
  local said lies_in
  if ! said=$(s3 list-objects-v2 --bucket "$2" --prefix "$3" --max-keys 1 2>&1); then
    case "$3 $said" in
      # Packs may be readable where they cannot be listed.
      'models/ '*AccessDenied*) return ;;
    esac
    echo "spotreel: $1 = $2 with s3.region = $region cannot be used: $said"
    exit 1
  fi
  # AWS's command line finds a bucket in any region, and a worker does not. An old one does not say where it lies.
  [ -z "$endpoint" ] || return 0
  lies_in=$(s3 head-bucket --bucket "$2" --query BucketRegion --output text 2>/dev/null) || return 0
  case "$lies_in" in
    '' | None | "$region") ;;
    *)
      echo "spotreel: s3.region = $region is wrong: $1 = $2 lies in $lies_in"
      exit 1
      ;;
  esac
}
check_bucket s3.bucket "$(parameter S3__BUCKET)" checkpoints/
[ -z "$MODELS_BUCKET" ] || check_bucket --models-bucket "$MODELS_BUCKET" models/

# A clean end of the worker ends the machine; so does a refused configuration (2), and a worker that gives this machine
# up (4): started again, it would take tasks while the machine is being ended. After a crash it is started again, three
# times. The console has its log: whoever looks for the reason of an end finds it there.
cat >"$UNITS/spotreel-worker.service" <<UNIT
[Unit]
Description=spotreel worker
Requires=docker.service
After=docker.service network-online.target
StartLimitIntervalSec=24h
StartLimitBurst=4
StartLimitAction=poweroff

[Service]
ExecStartPre=-/usr/bin/docker rm --force spotreel-worker
ExecStart=/usr/bin/docker run --rm --name spotreel-worker --network host $GPUS --env-file $VARIABLES $volume $IMAGE
ExecStopPost=/bin/sh -c 'case "\$\$EXIT_STATUS" in 0|2|4) systemctl poweroff ;; esac'
StandardOutput=journal+console
StandardError=journal+console
Restart=on-failure
RestartPreventExitStatus=2 4
RestartSec=5
KillMode=mixed
TimeoutStopSec=100
UNIT
chmod 644 "$UNITS/spotreel-worker.service"

# The driver may still be built or loaded: DKMS, the persistence daemon, the first modprobe.
wait_for_driver() {
  if ! command -v nvidia-smi >/dev/null; then
    echo "spotreel: the machine image has no nvidia-smi: name one with NVIDIA's driver in --ami, or use --no-gpus"
    return 1
  fi
  for _ in {1..60}; do
    timeout --kill-after 5 20 nvidia-smi --list-gpus && return
    sleep 5
  done
  echo "spotreel: NVIDIA's driver has not answered for 5 minutes"
  return 1
}
[ -z "$GPUS" ] || wait_for_driver

wait "$image_pulled"
end_reading
systemctl daemon-reload
systemctl start spotreel-worker.service
echo "spotreel: the worker is started"
