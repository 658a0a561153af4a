#!/usr/bin/env python3
"""The proof behind `make compose-test`: the containers of compose.yaml are the whole system, and lose nothing.

A project of its own, on ports of its own: what else runs on this machine is left alone, and nothing is left at the end.
Needs a Docker engine, curl, ffprobe and nats-py. `--keep` leaves everything running after a failure.
"""
import asyncio, json, os, pathlib, re, socket, subprocess, sys, tempfile, time, uuid

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = "spotreel-test"
PROGRAMS = ["intake", "notifier", "monitor", "trigger", "fleet", "worker"]
SERVICES = ["nats", "localcloud", *PROGRAMS]
WORKERS = 2
ENDS = {"succeeded", "failed", "cancelled", "expired"}
# Small, and slow enough to be killed half-way: two seconds.
TASK = {"model": "t2v-A14B", "prompt": "a red fox in the snow", "size": "832x480", "frames": 25, "steps": 20}
STEP_MS = 100
TASKS_A_KILL = 3
# What a healthy system says of itself, and nothing else above INFO: that nobody is asked for keys, and passwords are as
# compose.yaml has them; and that a program which begins has no connection yet.
EXPECTED_WARNINGS = ["api.auth is off", "Plaintext passwords detected", "there is no connection"]
# What the files of deploy/compose ask for and nobody can guess.
MUST_BE_SET = {"SPOTREEL_PACKS": "/packs", "SPOTREEL_S3_ENDPOINT_URL": "http://s3", "SPOTREEL_S3_PUBLIC_URL": "http://s3"}
# A lease of 60 s, and the work behind it.
PATIENCE = 300
BOOT = 180


def say(text):
    print(f"\n\033[1m== {text}\033[0m", flush=True)


def fail(text):
    raise SystemExit(f"compose-test: {text}")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


HTTP, NATS, S3 = free_ports(3)
# Nothing of the caller's own settings: the defaults are what is tested.
ENV = {name: value for name, value in os.environ.items() if not name.startswith(("SPOTREEL_", "COMPOSE_", "NATS_"))}
ENV |= {"SPOTREEL_HTTP_PORT": str(HTTP), "SPOTREEL_NATS_PORT": str(NATS), "SPOTREEL_S3_PORT": str(S3),
        "SPOTREEL_STEP_MS": str(STEP_MS), "SPOTREEL_WORKERS": str(WORKERS)}


def run(*args, quiet=True, check=True):
    done = subprocess.run(args, cwd=ROOT, env=ENV, text=True, capture_output=quiet)
    if check and done.returncode:
        fail(f"{' '.join(args)} failed:\n{done.stdout or ''}{done.stderr or ''}")
    return done.stdout


def compose(*args, **how):
    return run("docker", "compose", "--env-file", "/dev/null", "-p", PROJECT, *args, **how)


def until(what, seconds, condition):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    print(compose("ps", "-a", check=False), compose("logs", "--tail", "20", check=False), sep="\n")
    fail(f"waited {seconds} s for {what} in vain")


def containers():
    return [json.loads(line) for line in compose("ps", "-a", "--format", "json").splitlines()]


def of(service):
    return sorted(one["Name"] for one in containers() if one["Service"] == service)


def all_healthy(without=()):
    seen = {service: [] for service in SERVICES if service not in without}
    for one in containers():
        if one["Service"] in seen:
            seen[one["Service"]].append(one["State"] == "running" and one["Health"] == "healthy")
    return all(each and all(each) for each in seen.values()) and len(seen["worker"]) == WORKERS


# --- What is written down ---


def settings_are_documented():
    """Every variable of compose.yaml and what is put over it stands in .env.example with the same value, and no other does."""
    files = [ROOT / "compose.yaml", *sorted((ROOT / "deploy/compose").glob("*.yaml"))]
    text = "\n".join(file.read_text() for file in files)
    used = dict(re.findall(r"\$\{(\w+):-([^}$]*)", text))
    names = used.keys() | MUST_BE_SET.keys()
    lines = (ROOT / ".env.example").read_text().splitlines()
    told = dict(re.findall(r"^#?(SPOTREEL_\w+)=(.*)$", "\n".join(lines), re.M))
    if names != told.keys():
        fail(f".env.example and the compose files differ: {sorted(names ^ told.keys())}")
    shown = {line.split("=")[0] for line in lines if re.match(r"[A-Z]", line)}
    wrong = {name: (told[name], used[name]) for name in shown if told[name] != used[name]}
    if wrong:
        fail(f".env.example says other defaults than the compose files: {wrong}")
    print(f"{len(names)} settings of {len(files)} files, each in .env.example with its default")


def profiles_are_valid():
    profiles = ["--profile", "telemetry", "--profile", "observability", "--profile", "cli"]
    compose(*profiles, "config", "-q")
    for over in (ROOT / "deploy/compose").glob("*.yaml"):
        run("env", *(f"{name}={value}" for name, value in MUST_BE_SET.items()),
            "docker", "compose", "--env-file", "/dev/null", "-f", "compose.yaml", "-f", str(over), *profiles, "config", "-q")
    print("compose.yaml is valid with all its profiles, and with what is put over it")


# --- The containers as they are ---


def rights():
    """No root, no capabilities, nothing to write on, bounded memory, ports on the loopback only."""
    for one in containers():
        info = json.loads(run("docker", "inspect", one["Name"]))[0]
        host = info["HostConfig"]
        as_wanted = (host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"] and host["Memory"]
                     and any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
                     and (one["Service"] == "nats" or info["Config"]["User"] == "10001:10001"))
        bound = [bind["HostIp"] for binds in (host["PortBindings"] or {}).values() for bind in binds]
        if not as_wanted or set(bound) - {"127.0.0.1"}:
            fail(f"{one['Name']} may do more than it should: {host}")
    print("every container: no capabilities, read-only, bounded memory, ports on 127.0.0.1; all but nats are no root")


def logs_are_clean():
    lines = compose("logs", "--no-color").splitlines()
    loud = [line for line in lines if re.search(r"\b(WARN|ERROR|WRN|ERR|FTL)\b", line)
            and not any(words in line for words in EXPECTED_WARNINGS)]
    if loud:
        fail("the logs of an idle system are not clean:\n" + "\n".join(loud))
    print(f"{len(lines)} lines of log, none of them a warning that is not meant")


def figures():
    size = int(run("docker", "image", "inspect", "-f", "{{.Size}}", ENV.get("SPOTREEL_IMAGE", "spotreel")))
    print(f"image: {size / 1e6:.0f} MB")
    names = [one["Name"] for one in containers() if one["State"] == "running"]
    print(run("docker", "stats", "--no-stream", "--format", "{{.Name}}\t{{.MemUsage}}\t{{.CPUPerc}}", *names), end="")


# --- Work ---


def task(**more):
    return {**TASK, "id": "compose-" + uuid.uuid4().hex[:12], **more}


def as_client(work, user="client"):
    """`work` with a connection of this user, from outside of the containers' network."""
    async def session():
        nc = await nats.connect(f"nats://127.0.0.1:{NATS}", user=user, password=f"public-{user}",
                                allow_reconnect=False, connect_timeout=10)
        try:
            return await work(nc)
        finally:
            await nc.close()
    return asyncio.run(asyncio.wait_for(session(), PATIENCE))


def ask(verb, body):
    async def request(nc):
        answer = json.loads((await nc.request(f"spotreel.{verb}", json.dumps(body).encode(), timeout=15)).data)
        if "error" in answer:
            fail(f"spotreel.{verb} was refused: {answer}")
        return answer
    return as_client(request)


def curl(*args):
    return run("curl", "-sS", "--fail-with-body", "--max-time", "30", *args)


def by_http(folder):
    base = f"http://127.0.0.1:{HTTP}/v1/tasks"
    accepted = json.loads(curl("-H", "content-type: application/json", "-d", json.dumps(task()), base))
    url = f"{base}/{accepted['id']}"
    until("the task that came by HTTP", PATIENCE, lambda: json.loads(curl(url))["state"] == "succeeded")
    path = folder / "http.mp4"
    curl("-L", "-o", str(path), f"{url}/video")
    print(f"HTTP: {accepted['id']} accepted, rendered, downloaded:", probe(path))
    return accepted["id"]


def by_nats(folder):
    async def work(nc):
        done = await nc.subscribe("spotreel.task.*.succeeded")
        await nc.flush()
        wanted = task()
        answer = json.loads((await nc.request("spotreel.submit", json.dumps(wanted).encode(), timeout=15)).data)
        if answer.get("id") != wanted["id"]:
            fail(f"not accepted: {answer}")
        while True:
            event = json.loads((await done.next_msg(timeout=PATIENCE)).data)
            if event["data"]["id"] == wanted["id"]:
                return event["data"]
    data = as_client(work)
    path = folder / "nats.mp4"
    curl("-o", str(path), data["video"]["url"])
    print(f"NATS: {data['id']} accepted, heard of, downloaded:", probe(path))
    return data["id"]


def probe(path):
    """As another program sees the video: its size, and each frame decoded."""
    told = run("ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "csv=p=0",
               "-show_entries", "stream=codec_name,width,height,nb_read_frames", str(path)).strip()
    if told != f"h264,{TASK['size'].replace('x', ',')},{TASK['frames']}":
        fail(f"{path} is not the video that was asked for: {told}")
    return told


def video_of(id, folder):
    path = folder / f"{id}.mp4"
    curl("-o", str(path), ask("get", {"id": id})["video"]["url"])
    return probe(path)


# --- Kills ---


def submit_some():
    return [one["id"] for one in ask("submit", [task() for _ in range(TASKS_A_KILL)])["results"]]


def one_is_rendered(ids):
    until("a worker to begin", PATIENCE, lambda: any(ask("get", {"id": id})["state"] == "started" for id in ids))


def restarts(name):
    return json.loads(run("docker", "inspect", name))[0]["RestartCount"]


def crash(name):
    """The program dies as by a fault of its own: init ends with it, and the engine starts the container again."""
    before = restarts(name)
    run("docker", "exec", name, "sh", "-c", 'kill -9 $(cat /proc/1/task/1/children)', check=False)
    until(f"{name} to be started again", 60, lambda: restarts(name) > before)


def kill(name):
    """As `docker compose kill`: the engine leaves it dead, a person starts it again."""
    run("docker", "kill", name)
    run("docker", "start", name)


def die(how, folder):
    ids = []
    for service in SERVICES:
        for name in of(service):
            fresh = submit_some()
            one_is_rendered(fresh)
            how(name)
            print(f"{name}: {how.__name__}ed while {len(fresh)} tasks were in the queue", flush=True)
            until(f"all to be well after {name}", BOOT, all_healthy)
            ids += fresh
    return ids


def all_succeed(ids):
    def states():
        return {ask("get", {"id": id})["state"] for id in ids}
    until("all tasks", PATIENCE, lambda: states() == {"succeeded"})
    outcomes = [attempt["outcome"] for id in ids for attempt in ask("get", {"id": id})["attempts"]]
    lost = outcomes.count("lost")
    if not lost:
        fail("no attempt was lost: nothing was rendered when workers were killed")
    print(f"{len(ids)} tasks, all succeeded; {len(outcomes)} attempts, {lost} of them lost")


def told_once(ids):
    """Exactly one end for each, in the events that clients keep."""
    async def read(nc):
        js = nc.jetstream()
        name = "compose-" + uuid.uuid4().hex[:8]
        config = ConsumerConfig(durable_name=name, filter_subject="spotreel.task.>", deliver_policy=DeliverPolicy.ALL)
        await js.add_consumer("EVENTS", config)
        pull = await js.pull_subscribe_bind(name, "EVENTS")
        ends, pending = [], (await js.consumer_info("EVENTS", name)).num_pending
        while pending:
            for message in await pull.fetch(min(100, pending), timeout=15):
                _, _, id, event = message.subject.split(".")
                ends += [id] * (event in ENDS)
                await message.ack_sync()
                pending = message.metadata.num_pending
        await js.delete_consumer("EVENTS", name)
        return ends

    def all_heard():
        ends = as_client(read)
        doubled = [id for id in ids if ends.count(id) > 1]
        if doubled:
            fail(f"more than one end was told: {doubled}")
        return set(ids) <= set(ends)
    # The clients' copy of the events follows the services' own: what is missing may still come.
    until("an end of each", 60, all_heard)
    print(f"{len(ids)} ends, each told once")


# --- The proof ---


def whole_system(folder):
    say("docker compose up")
    started = time.monotonic()
    compose("up", "-d", quiet=False)
    until("all to be healthy", BOOT, all_healthy)
    print(compose("ps", "-a", "--format", "table {{.Name}}\t{{.Status}}\t{{.Ports}}"), end="")
    print(f"healthy after {time.monotonic() - started:.0f} s")
    rights()
    say("tasks from outside")
    ids = [by_http(folder), by_nats(folder)]
    logs_are_clean()
    figures()
    say("each program crashes while tasks are in the queue")
    ids += die(crash, folder)
    say("each container is killed while tasks are in the queue")
    ids += die(kill, folder)
    all_succeed(ids)
    told_once(ids)
    say("down and up again")
    compose("down")
    compose("up", "-d")
    until("all to be healthy", BOOT, all_healthy)
    all_succeed(ids)
    told_once(ids)
    print("the first video, by a fresh link:", video_of(ids[0], folder))


def full_disk(folder):
    """NATS alone, on a small disk that fills up: once there is room again, it stores again, with nobody's help."""
    small, held = folder / "small.yaml", f"{PROJECT}-held"
    small.write_text("volumes: { nats: { driver_opts: { type: tmpfs, device: tmpfs, o: size=64m } } }")

    def health():
        return next(one["Health"] for one in containers() if one["Service"] == "nats")

    def stored():
        async def store(nc):
            js = nc.jetstream()
            await js.add_stream(name="DISK", subjects=["disk"])
            try:
                return (await js.publish("disk", bytes(1 << 20))).seq
            except nats.errors.TimeoutError:
                return 0
        return as_client(store, user="provision")

    compose("-f", "compose.yaml", "-f", str(small), "up", "-d", "nats")
    try:
        # Such a disk lasts as long as a container has it: not only the one that is started again.
        run("docker", "run", "-d", "--rm", "--name", held, "--network", "none", "-v", f"{PROJECT}_nats:/data",
            "--entrypoint", "sleep", "nats:2-alpine", "600")
        until("NATS to be healthy", BOOT, lambda: health() == "healthy")
        [name] = of("nats")
        first, before = stored(), restarts(name)
        compose("exec", "-T", "nats", "sh", "-c", "dd if=/dev/zero of=/data/ballast bs=1M", check=False)
        until("a write that is not taken", 60, lambda: not stored())
        until("NATS to be unhealthy", 60, lambda: health() == "unhealthy")
        compose("exec", "-T", "nats", "rm", "/data/ballast")
        until("NATS to be started again", 60, lambda: restarts(name) > before)
        until("NATS to be healthy again", BOOT, lambda: health() == "healthy")
        # Counted on: what was there before is there.
        if stored() <= first:
            fail("what NATS had stored before its disk was full is lost")
        if "it is started again" not in compose("logs", "nats"):
            fail("the log does not say why NATS was started again")
    finally:
        run("docker", "rm", "-f", held, check=False)
    compose("down", "-v")
    print("nothing stored while the disk was full, unhealthy, started again once there was room, and nothing lost")


def own_store(folder):
    """The same with a store that is not ours to start: here a local cloud that compose knows nothing of."""
    name, [port] = f"{PROJECT}-own-s3", free_ports(1)
    ENV.update({
        "COMPOSE_FILE": "compose.yaml:deploy/compose/own-s3.yaml", "SPOTREEL_BUCKET": "mine", "SPOTREEL_S3_SECRET_KEY": "mine",
        "SPOTREEL_S3_ENDPOINT_URL": f"http://{name}:9000", "SPOTREEL_S3_PUBLIC_URL": f"http://127.0.0.1:{port}"})
    compose("up", "-d", "nats")
    try:
        run("docker", "run", "-d", "--rm", "--name", name, "--network", f"{PROJECT}_default", "-p", f"127.0.0.1:{port}:9000",
            "spotreel", "spotreel-localcloud", "--listen", "0.0.0.0:9000", "--dir", "/data",
            "--access-key", "spotreel", "--secret-key", "mine")
        compose("up", "-d")
        until("all to be healthy", BOOT, lambda: all_healthy(without=["localcloud"]))
        by_nats(folder)
    finally:
        run("docker", "rm", "-f", name, check=False)
    compose("down", "-v")


def main():
    say("what is written down")
    settings_are_documented()
    profiles_are_valid()
    say("the image (the first time compiles everything)")
    compose("build", quiet=False)
    compose("down", "-v", "--remove-orphans")
    well = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole_system(pathlib.Path(folder))
            compose("down", "-v")
            say("NATS on a disk that fills up")
            full_disk(pathlib.Path(folder))
            say("with a store of your own")
            own_store(pathlib.Path(folder))
        well = True
    finally:
        if well or "--keep" not in sys.argv:
            compose("down", "-v", "--remove-orphans", "--timeout", "20", check=False)
    left = run("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}")
    left += run("docker", "volume", "ls", "-q", "--filter", f"label=com.docker.compose.project={PROJECT}")
    if left:
        fail(f"something is left: {left}")
    say("all as promised; nothing is left")


if __name__ == "__main__":
    main()
