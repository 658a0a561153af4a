#!/usr/bin/env python3
"""The demonstration behind `make demo`: a queue becomes a Spot fleet, and the fleet becomes nothing.

Real processes on this machine: NATS, a small cloud with a Spot market, the services, and machines that come and go. One
machine is taken by the market half-way. Standard library only. Ends with the paths of the videos and two bills, or with
the first thing that was not as promised.
"""
import json, os, pathlib, shutil, signal, struct, subprocess, sys, time, urllib.request, zlib

BIN = pathlib.Path(os.environ["SPOTREEL_BIN_DIR"])
ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME, DIR = "demo", ROOT / ".demo"
SPOTREEL = str(BIN / "spotreel")
# Steps that last a while, so that there is something to see and a half-way to be taken at.
STEP_MS, STEPS = "250", "30"
TRIGGER_AT, MACHINES = 6, 3
# AWS gives two minutes. With so few seconds no render can be finished: it is handed back.
NOTICE_S = 20
machines_seen = {}  # instance id → session id of its processes


def say(text):
    print(f"\n\033[1m== {text}\033[0m", flush=True)


def fail(text):
    sys.exit(f"{NAME}: {text}\nThe logs are in {DIR}/logs, the machines' in {DIR}/s3/machines.")


def spotreel(*args):
    done = subprocess.run([SPOTREEL, "--dir", str(DIR), *args], capture_output=True, text=True)
    if done.returncode:
        fail(f"spotreel {' '.join(args)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def show(*args):
    print(f"$ spotreel {' '.join(args)}\n{spotreel(*args)}", end="", flush=True)


def asked(*args):
    return json.loads(spotreel(*args, "--json"))


def until(what, seconds, condition):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    fail(f"waited {seconds} s for {what} in vain")


def endpoints():
    lines = (DIR / "endpoints.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def cloud(path, order=None):
    """The local cloud as its operator sees it: what AWS would never tell."""
    url = endpoints()["SPOTREEL_CLOUD_ADMIN"] + path
    body = None if order is None else json.dumps(order).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=10))


def instances():
    """All of them, also those that are over."""
    found = cloud("/instances")
    machines_seen.update((one["id"], one["pid"]) for one in found if one["pid"])
    return found


def alive():
    return [one for one in instances() if one["state"] not in ("terminated", "stopped")]


def png(path, width=256, height=160):
    """A first frame for the image-to-video model: a plain gradient."""
    rows = b"".join(b"\0" + bytes(v for x in range(width) for v in (x, y, 160)) for y in range(height))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def main():
    started = time.monotonic()
    say("starting NATS, a small cloud (S3, EC2, a Spot market), intake, notifier, monitor, trigger and fleet: no machine")
    if DIR.exists():
        shutil.rmtree(DIR)
    DIR.mkdir()
    dev = subprocess.Popen(
        [SPOTREEL, "dev", "--dir", str(DIR), "--trigger-at", str(TRIGGER_AT), "--max-wait", "1h",
         "--max-instances", str(MACHINES), "--step-ms", STEP_MS],
        stdout=(DIR / "dev.log").open("w"), stderr=subprocess.STDOUT)
    page = ""
    try:
        until("endpoints.env", 90, lambda: dev.poll() is None and (DIR / "endpoints.env").exists())
        page = endpoints()["SPOTREEL_API"]
        print(f"the page of this system, while it runs: {page}/")
        ids = queue()
        batch = work(ids)
        books(batch)
        videos(ids)
        nothing_runs()
    finally:
        dev.send_signal(signal.SIGTERM)
        try:
            dev.wait(60)
        except subprocess.TimeoutExpired:
            dev.kill()
    say("and after `spotreel dev` has ended")
    left = ours()
    if left:
        fail("these are still there:\n" + "\n".join(left))
    print("nothing of it runs")
    print(f"\nThat took {time.monotonic() - started:.0f} s. Try it yourself: {SPOTREEL} dev --dir {DIR}\nand open its page: {page}/")


def queue():
    say(f"a batch begins with {TRIGGER_AT} tasks; here are {TRIGGER_AT - 2}")
    frame = DIR / "frame.png"
    png(frame)
    tasks = [
        ["--model", "ti2v-5B", "--prompt", "a red fox in the snow", "--frames", "49"],
        ["--model", "t2v-A14B", "--prompt", "a lighthouse in a storm", "--size", "832x480"],
        ["--model", "i2v-A14B", "--prompt", "the camera moves forward", "--size", "832x480", "--image", str(frame)],
    ] * 2
    submit = lambda task: asked("submit", "--steps", STEPS, *task)
    first = lambda answer: (answer[0] if isinstance(answer, list) else answer)["id"]
    ids = [first(submit(task)) for task in tasks[:-2]]

    def two_short():
        rules = {rule["rule"]: rule for rule in asked("why")["pools"][0]["decision"]["findings"]}
        return rules["length"]["outcome"] == "short" and rules["length"]["distance"].get("tasks") == 2
    until("`spotreel why` to say that 2 tasks are missing", 20, two_short)
    show("why")
    if instances():
        fail("a machine was bought before the threshold")
    say("two more")
    return ids + [first(submit(task)) for task in tasks[-2:]]


def fleet():
    instances()
    return asked("fleet")["pools"][0]


def work(ids):
    batch = until("a batch", 20, lambda: fleet().get("batch"))["id"]
    print(f"batch {batch} is asked for")

    busy = lambda: [one for one in fleet()["instances"] if (one.get("worker") or {}).get("task")]
    until(f"{MACHINES} machines to render", 60, lambda: len(busy()) >= MACHINES)
    show("fleet")
    heard = half_way()
    task, step, worker = heard["id"], heard["step"], heard["worker"]
    victim = next(one for one in busy() if one["worker"]["worker"] == worker)
    cloud("/market/interrupt", {"instance": victim["id"], "kind": "notice", "lead_s": NOTICE_S})
    say(f"the market takes {victim['id']} in {NOTICE_S} s, at step {step} of {STEPS} of {task}")
    attempts = lambda: asked("status", task)["attempts"]
    until("its task to be handed back", 30,
          lambda: [a for a in attempts() if a["instance"] == victim["id"] and a["outcome"] == "interrupted"])
    print("handed back with a checkpoint")
    show("fleet")

    states = lambda: [asked("status", one)["state"] for one in ids]
    until("all videos", 120, lambda: instances() and set(states()) == {"succeeded"})
    for attempt in attempts():
        print(f"  {task}: on {attempt['instance']} from step {attempt['from_step']}, {attempt['outcome']}")
    last = attempts()[-1]
    if last["instance"] == victim["id"] or last["from_step"] < step:
        fail(f"the task did not go on elsewhere from where it was (step {step}): {attempts()}")
    return batch


def half_way():
    """The first progress that leaves too much to do for a machine that goes."""
    progress = subprocess.Popen([SPOTREEL, "--dir", str(DIR), "watch", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        for line in progress.stdout:
            said = json.loads(line)
            if said.get("phase") == "denoise" and 8 <= said["step"] <= 12:
                return said
    finally:
        progress.kill()
    fail("no progress was heard")


def books(batch):
    say("all are rendered: the machines go")
    until("the batch to settle", 60, lambda: (fleet().get("batch") or {}).get("status") == "settled")
    told = lambda: [json.loads(line) for line in spotreel("batches", batch, "--json").splitlines()]
    until("its last event", 20, lambda: any((one.get("data") or {}).get("status") == "settled" for one in told()))
    show("batches", batch)
    view = told()[-1]
    if view["interruptions"] != 1:
        fail(f"one machine was taken, and the batch says {view['interruptions']}")
    if view["tasks_done"] != TRIGGER_AT:
        fail(f"{TRIGGER_AT} tasks were done, and the batch says {view['tasks_done']}")
    bill = cloud("/bill")
    ours, theirs = float(view["receipt"]["total"]), bill["micros"] / 1e6
    say("the same by the cloud's own bill")
    for line in bill["lines"]:
        taken = ", taken by the market" if line["interrupted"] else ""
        print(f"  {line['instance_id']} ({line['kind']} {line['lifecycle']} in {line['zone']}): "
              f"{line['seconds']} s, ${line['micros'] / 1e6:.6f}{taken}")
    print(f"the cloud charges ${theirs:.6f}, the batch's receipt says ${ours:.6f}")
    if abs(ours - theirs) > 0.05 * theirs:
        fail("the two bills differ by more than 5 %")
    receipt(batch, view["receipt"]["total"])


def receipt(batch, total):
    """What the batch's bill is made of, exactly: by line, by instance and by task."""
    say("what the money was for")
    closed = until("the batch's ledger to be closed", 60,
                   lambda: (one := asked("receipt", batch))["final"] and one)
    show("receipt", batch)
    micros = lambda amount: round(float(amount) * 1e6)
    parts = {
        "lines": sum(micros(amount) for amount in closed["lines"].values()),
        "instances": sum(micros(one["total"]) for one in closed["instances"]),
        "tasks": sum(micros(one["total"]) for one in closed["tasks"]),
    }
    if closed["task_count"] != TRIGGER_AT or set(parts.values()) != {micros(total)}:
        fail(f"the parts of the receipt do not add up to {total}: {closed['task_count']} tasks, {parts}")
    alone = [asked("receipt", one["task"]) for one in closed["tasks"]]
    if sum(micros(one["total"]) for one in alone) != micros(total):
        fail(f"the receipts of the tasks do not add up to {total}: {alone}")
    print(f"instances, tasks and lines add up to ${total} each, to the micro-dollar")


def videos(ids):
    say("the videos")
    for task in ids:
        path = DIR / f"{task}.mp4"
        spotreel("get", task, "-o", str(path))
        print(path, probe(path))


def probe(path):
    if not shutil.which("ffprobe"):
        return "(ffprobe is not installed: not checked)"
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "csv=p=0",
         "-show_entries", "stream=codec_name,width,height,nb_read_frames", str(path)], capture_output=True, text=True)
    if done.returncode or done.stderr:
        fail(f"ffprobe does not like {path}: {done.stderr}")
    return done.stdout.strip()


def nothing_runs():
    say("what is left of the fleet")
    left = alive()
    if left:
        fail(f"the cloud still has machines: {left}")
    processes = [line for line in ours() if "worker" in line or "engine" in line]
    if processes:
        fail("processes of machines are still there:\n" + "\n".join(processes))
    print(f"the cloud: {len(instances())} instances, all terminated; ps: no worker, no engine")


def ours():
    """What `ps` shows of this demonstration: by the mark of its directory, or by the session of one of its machines."""
    mark = f"SPOTREEL_DEV_OF={DIR}\0".encode()
    sessions = {str(pid) for pid in machines_seen.values()}
    found = []
    for line in subprocess.run(["ps", "-eo", "pid=,sid=,stat=,args="], capture_output=True, text=True).stdout.splitlines():
        pid, sid, stat, _ = line.split(None, 3)
        if stat.startswith("Z"):
            continue
        try:
            marked = mark in pathlib.Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
        except OSError:
            marked = False
        if marked or sid in sessions:
            found.append(line)
    return found


if __name__ == "__main__":
    main()
