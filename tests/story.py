#!/usr/bin/env python3
"""The story behind `make story`: 60 tasks of three models, two pools, a market that moves, and nobody who helps.

Real processes on this machine, as in demo.py. The pools are a person's own (`--pools tests/story-pools.toml`): one for
ti2v-5B, one for the A14B models, each with budgets. Ends when every task has its video, no machine is left, each machine
has rendered models of its own pool only, and the batches' receipts add up to the cloud's bill.
"""
import json, shutil, signal, subprocess, time

import demo
from demo import ROOT, SPOTREEL, alive, asked, cloud, fail, say, show, spotreel, until

demo.NAME, demo.DIR = "story", ROOT / ".story"
DIR = demo.DIR
POOLS = ROOT / "tests" / "story-pools.toml"
SEED = "7"
MODELS = {"ti2v-5B": "small", "t2v-A14B": "large", "i2v-A14B": "large"}
OF_EACH = 20
STEP_MS, STEPS, FRAMES = "100", 20, 25
# On two cores, with debug builds, it takes three minutes. More than this is a failure, not a slow machine.
LONGEST_S = 540


def main():
    began = time.monotonic()
    say(f"starting everything with two pools and a market that moves (seed {SEED})")
    if DIR.exists():
        shutil.rmtree(DIR)
    DIR.mkdir()
    command = [SPOTREEL, "dev", "--dir", str(DIR), "--pools", str(POOLS), "--market-seed", SEED, "--step-ms", STEP_MS]
    log = (DIR / "dev.log").open("w")
    dev = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        until("endpoints.env", 90, lambda: dev.poll() is None and (DIR / "endpoints.env").exists())
        print((DIR / "dev.log").read_text().split("\n\n")[0])
        tasks = submit()
        watch(began)
        rendered_where_they_belong(tasks)
        books()
        demo.nothing_runs()
    finally:
        dev.send_signal(signal.SIGTERM)
        try:
            dev.wait(60)
        except subprocess.TimeoutExpired:
            dev.kill()
    left = demo.ours()
    if left:
        fail("after `spotreel dev` has ended these are still there:\n" + "\n".join(left))
    print(f"\nAll is as promised. That took {time.monotonic() - began:.0f} s.")


def submit():
    say(f"{OF_EACH} tasks of each model, in one file")
    frame = DIR / "frame.png"
    demo.png(frame)
    lines = []
    for number in range(OF_EACH):
        for model in MODELS:
            task = {"id": f"{model.lower()}-{number}", "model": model, "prompt": f"a fox, take {number}",
                    "frames": FRAMES, "steps": STEPS}
            if model == "i2v-A14B":
                task["image"] = str(frame)
            lines.append(json.dumps(task))
    file = DIR / "tasks.jsonl"
    file.write_text("\n".join(lines))
    spotreel("submit", "-f", str(file))
    return [json.loads(line)["id"] for line in lines]


def watch(began):
    """Only looks: nobody gives an order."""
    said = {}
    while True:
        tasks = [json.loads(line) for line in spotreel("list", "--all", "--json").splitlines()]
        states = {}
        for task in tasks:
            states[task["state"]] = states.get(task["state"], 0) + 1
        machines = {pool["pool"]: len(pool["instances"]) for pool in asked("fleet")["pools"]}
        now = {"tasks": states, "machines": machines}
        if now != said:
            counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            bought = ", ".join(f"{count} in {pool}" for pool, count in sorted(machines.items()))
            print(f"{time.monotonic() - began:4.0f} s  tasks: {counts}; machines: {bought}", flush=True)
            said = now
        ended = sum(states.get(state, 0) for state in ("failed", "cancelled", "expired"))
        if ended:
            show("list", "--state", "failed")
            fail(f"{ended} tasks ended without a video")
        if states == {"succeeded": OF_EACH * len(MODELS)} and not alive() and settled():
            return
        if time.monotonic() - began > LONGEST_S:
            show("why")
            show("fleet")
            fail(f"not done after {LONGEST_S} s")
        time.sleep(2)


def batches():
    return [json.loads(line) for line in spotreel("batches", "--json").splitlines()]


def settled():
    return all(batch["status"] in ("settled", "failed") for batch in batches())


def rendered_where_they_belong(tasks):
    pools = {}
    for batch in batches():
        for line in batch["receipt"]["lines"]:
            pools[line["instance"]] = batch["pool"]
    for task in tasks:
        view = asked("status", task)
        wrong = [one["instance"] for one in view["attempts"] if pools.get(one["instance"]) != MODELS[view["model"]]]
        if wrong:
            fail(f"{task} ({view['model']}) was tried on machines of another pool: {wrong}")
    print(f"all {len(tasks)} tasks were rendered on machines of their own pool")


def books():
    say("the batches, and the cloud's own bill")
    show("batches")
    bill = cloud("/bill")
    theirs = {line["instance_id"]: line["micros"] / 1e6 for line in bill["lines"]}
    ours = {line["instance"]: float(line["cost"]) for batch in batches() for line in batch["receipt"]["lines"]}
    if set(ours) != set(theirs):
        fail(f"the receipts list other machines than the bill: {set(ours) ^ set(theirs)}")
    for instance in sorted(ours, key=lambda one: abs(ours[one] - theirs[one]), reverse=True)[:3]:
        print(f"  {instance}: receipt ${ours[instance]:.6f}, bill ${theirs[instance]:.6f}")
    total, charged = sum(ours.values()), bill["micros"] / 1e6
    print(f"{len(ours)} machines; the receipts add up to ${total:.6f}, the cloud charges ${charged:.6f}")
    if abs(total - charged) > 0.01:
        fail("receipts and bill differ by more than a cent")
    failed = [batch["id"] for batch in batches() if batch["status"] == "failed"]
    if failed:
        fail(f"these batches failed: {failed}")


if __name__ == "__main__":
    main()
