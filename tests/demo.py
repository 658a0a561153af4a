#!/usr/bin/env python3
"""The demonstration behind `make demo`: a whole spotreel on this machine, three models, one worker killed half-way.

Standard library only. Ends with the paths of the videos, or with the first thing that was not as promised.
"""
import json, os, pathlib, shutil, signal, struct, subprocess, sys, time, zlib

BIN = pathlib.Path(os.environ["SPOTREEL_BIN_DIR"])
ROOT = pathlib.Path(__file__).resolve().parent.parent
DIR = ROOT / ".demo"
SPOTREEL = str(BIN / "spotreel")
# Steps that last a while, so that there is something to see and a half-way to be killed at.
STEP_MS = "250"


def say(text):
    print(f"\n\033[1m== {text}\033[0m", flush=True)


def fail(text):
    sys.exit(f"demo: {text}")


def spotreel(*args):
    done = subprocess.run([SPOTREEL, "--dir", str(DIR), *args], capture_output=True, text=True)
    if done.returncode:
        fail(f"spotreel {' '.join(args)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def until(what, seconds, condition):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    fail(f"waited {seconds} s for {what} in vain; the logs are in {DIR}/logs")


def png(path, width=256, height=160):
    """A first frame for the image-to-video model: a plain gradient."""
    rows = b"".join(b"\0" + bytes(v for x in range(width) for v in (x, y, 160)) for y in range(height))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def status(task):
    return json.loads(spotreel("status", "--json", task))


def main():
    started = time.monotonic()
    say("starting nats-server, a local S3, intake, notifier, monitor and two workers")
    shutil.rmtree(DIR, ignore_errors=True)
    DIR.mkdir()
    dev = subprocess.Popen(
        [SPOTREEL, "dev", "--dir", str(DIR), "--workers", "2", "--lease", "6s", "--step-ms", STEP_MS],
        stdout=(DIR / "dev.log").open("w"), stderr=subprocess.STDOUT)
    try:
        until("endpoints.env", 60, lambda: dev.poll() is None and (DIR / "endpoints.env").exists())
        show()
    finally:
        dev.send_signal(signal.SIGTERM)
        try:
            dev.wait(60)
        except subprocess.TimeoutExpired:
            dev.kill()
    print(f"\nThat took {time.monotonic() - started:.0f} s. Try it yourself: {SPOTREEL} dev --dir {DIR}")


def show():
    say("submitting one task for each model")
    frame = DIR / "frame.png"
    png(frame)
    common = ["--steps", "24"]
    tasks = [json.loads(spotreel("submit", "--json", *common, *task)) for task in (
        ["--model", "ti2v-5B", "--prompt", "a red fox in the snow", "--frames", "49"],
        ["--model", "t2v-A14B", "--prompt", "a lighthouse in a storm", "--size", "832x480"],
        ["--model", "i2v-A14B", "--prompt", "the camera moves slowly forward", "--size", "832x480", "--image", str(frame)],
    )]
    ids = [(task[0] if isinstance(task, list) else task)["id"] for task in tasks]
    print("\n".join(ids))
    bars = subprocess.Popen([SPOTREEL, "--dir", str(DIR), "watch", *ids])
    victim = half_way()
    pids = json.loads((DIR / "pids.json").read_text())
    os.kill(pids[victim["worker"]], signal.SIGKILL)
    say(f"killed -9 {victim['worker']} at step {victim['step']} of {victim['id']}; another goes on when the lease ends")

    until("all three videos", 300, lambda: all(status(task)["state"] == "succeeded" for task in ids))
    bars.wait(30)
    attempts = status(victim["id"])["attempts"]
    for attempt in attempts:
        print(f"  {attempt['worker']}: from step {attempt['from_step']}, {attempt['outcome']}")
    if [a["outcome"] for a in attempts][-2:] != ["lost", "succeeded"] or attempts[-1]["from_step"] == 0:
        fail("the killed render was not resumed from its checkpoint")

    say("the videos")
    for task in ids:
        path = DIR / f"{task}.mp4"
        spotreel("get", task, "-o", str(path))
        print(path, probe(path))


def half_way():
    """The first progress that is past the checkpoint of step 10 by more than its upload takes."""
    progress = subprocess.Popen([SPOTREEL, "--dir", str(DIR), "watch", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        for line in progress.stdout:
            said = json.loads(line)
            if said.get("phase") == "denoise" and said["step"] >= 14:
                return said
    finally:
        progress.kill()
    fail("no progress was heard")


def probe(path):
    if not shutil.which("ffprobe"):
        return "(ffprobe is not installed: not checked)"
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "csv=p=0",
         "-show_entries", "stream=codec_name,width,height,nb_read_frames", str(path)], capture_output=True, text=True)
    if done.returncode or done.stderr:
        fail(f"ffprobe does not like {path}: {done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
