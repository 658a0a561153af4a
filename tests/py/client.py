"""A client of spotreel as anybody would write it: nats-py and nothing of ours.

usage: client.py URL USER PASSWORD OTHER_USER OTHER_PASSWORD OPERATOR_PASSWORD
Prints one line `ok NAME` for each thing that was found to be as promised; any other end is a failure. The second user
has all rights in the services' account: it looks whether what is forbidden has left traces.
"""
import asyncio
import json
import sys
import urllib.request
import uuid

try:
    import nats
    from nats.js.api import ConsumerConfig, DeliverPolicy
except ImportError:
    sys.exit("nats-py is missing: run `make tools`")

WITHIN = 60


def ok(name):
    print("ok", name, flush=True)


def task(**more):
    return {"model": "t2v-A14B", "prompt": "a red fox in the snow", "size": "832x480", "frames": 5, "steps": 2,
            "id": "py-" + uuid.uuid4().hex, **more}


async def verbs(nc):
    wanted = task()
    answer = json.loads((await nc.request("spotreel.submit", json.dumps(wanted).encode(), timeout=15)).data)
    assert answer.get("id") == wanted["id"], answer
    again = json.loads((await nc.request("spotreel.submit", json.dumps(wanted).encode(), timeout=15)).data)
    # Its state may have moved on meanwhile.
    same = [{key: one[key] for key in ("id", "seed", "submitted_at")} for one in (answer, again)]
    assert same[0] == same[1], same
    seen = json.loads((await nc.request("spotreel.get", json.dumps({"id": wanted["id"]}).encode(), timeout=15)).data)
    assert seen["prompt"] == wanted["prompt"], seen
    listed = json.loads((await nc.request("spotreel.list", b"{}", timeout=15)).data)
    assert any(one["id"] == wanted["id"] for one in listed["tasks"]), listed
    wrong = json.loads((await nc.request("spotreel.submit", json.dumps(task(colour="red")).encode(), timeout=15)).data)
    assert wrong["error"]["code"] == "invalid" and "colour" in json.dumps(wrong), wrong
    ok("verbs")
    return wanted["id"]


async def inbox(nc):
    wanted = task()
    stored = await nc.jetstream().publish("spotreel.inbox", json.dumps(wanted).encode())
    assert stored.stream == "INBOX", stored
    ok("inbox")
    return wanted["id"]


async def videos(subscription, ids):
    """Every task ends with an event that holds a link, and behind the link lies a video."""
    waiting = set(ids)
    while waiting:
        message = await subscription.next_msg(timeout=WITHIN)
        event = json.loads(message.data)
        if event["data"]["id"] not in waiting:
            continue
        assert event["specversion"] == "1.0" and event["type"] == "io.spotreel.task.succeeded.v1", event
        video = event["data"]["video"]
        with urllib.request.urlopen(video["url"], timeout=15) as answer:
            data = answer.read()
        assert data[4:8] == b"ftyp" and len(data) == video["bytes"], (data[:16], video)
        waiting.remove(event["data"]["id"])
    ok("videos")


async def durable(nc, ids):
    """A consumer of one's own on the copy of the events: a client that was away misses nothing."""
    config = ConsumerConfig(durable_name="py", filter_subject="spotreel.task.*.succeeded",
                            deliver_policy=DeliverPolicy.ALL)
    js = nc.jetstream()
    await js.add_consumer("EVENTS", config)
    pull = await js.pull_subscribe_bind("py", "EVENTS")
    waiting = set(ids)
    while waiting:
        for message in await pull.fetch(1, timeout=WITHIN):
            waiting.discard(json.loads(message.data)["data"]["id"])
            await message.ack_sync()
    info = await js.consumer_info("EVENTS", "py")
    assert info.num_ack_pending == 0, info
    ok("durable")


async def discovery(nc):
    answer = json.loads((await nc.request("$SRV.PING", b"", timeout=15)).data)
    assert answer["type"] == "io.nats.micro.v1.ping_response", answer
    # Any of the services was the first to answer that.
    info = json.loads((await nc.request("$SRV.INFO.spotreel-intake", b"", timeout=15)).data)
    subjects = {one["subject"] for one in info["endpoints"]}
    assert "spotreel.submit" in subjects, info
    ok("discovery")


async def forbidden(nc, errors, victim):
    """Each of these must be refused; what a refused publish would have done is looked for afterwards."""
    log = f"spotreel.log.{victim}.succeeded"
    tries = [(log, b"forged"), ("spotreel.log.new.queued.ti2v-5B.1", b"forged"),
             ("$JS.ACK.TASKS.t2v-A14B_1.1.1.1.0.0", b"+ACK"), ("$JS.API.STREAM.PURGE.TASKS", b""),
             ("$JS.API.STREAM.DELETE.TASKS", b""), ("$JS.API.CONSUMER.MSG.NEXT.TASKS.t2v-A14B_1", b""),
             ("$JS.API.STREAM.MSG.DELETE.EVENTS", b'{"seq":1}'), ("$KV.spotreel-marks.sweeper", b"{}"),
             (f"spotreel.task.{victim}.succeeded", b"{}"), ("spotreel.hint.x", b""),
             ("spotreel.alarm.backlog.firing", b"{}"), ("$KV.spotreel-marks.alarms", b"{}"),
             ("spotreel.ops.key.create", b'{"owner":"me","access":"all"}'), ("spotreel.ops.key.list", b"{}"),
             ("spotreel.ops.webhook.create", b'{"url":"https://example.org/"}'), ("spotreel.ops.webhook.list", b"{}"),
             ("$KV.spotreel-webhooks.endpoint.aaaaaaaaaaaa", b"{}"), ("spotreel.webhook.aaaaaaaaaaaa.disabled", b"{}"),
             ("spotreel.ops.key.revoke", b'{"id":"aaaaaaaaaaaa"}'), ("$KV.spotreel-keys.aaaaaaaaaaaa", b"{}"),
             ("$JS.API.DIRECT.GET.KV_spotreel-keys", b'{"multi_last":["$KV.spotreel-keys.>"]}'),
             ("$JS.API.STREAM.MSG.GET.KV_spotreel-keys", b'{"seq":1}'),
             ("$JS.API.CONSUMER.CREATE.KV_spotreel-keys", b"{}")]
    for subject, payload in tries:
        errors.clear()
        await nc.publish(subject, payload)
        await nc.flush()
        for _ in range(100):
            if errors:
                break
            await asyncio.sleep(0.05)
        assert any("permissions violation" in error.lower() for error in errors), (subject, errors)
    for subject in ("spotreel.log.>", "$KV.spotreel-keys.>", "spotreel.ops.key.>"):
        errors.clear()
        await nc.subscribe(subject)
        await nc.flush()
        for _ in range(100):
            if errors:
                break
            await asyncio.sleep(0.05)
        assert any("permissions violation" in error.lower() for error in errors), (subject, errors)
    ok("forbidden")


async def forged(nc, inside, victim):
    """Answers, deliveries and acks that are aimed at the log: nothing of them arrives in it."""
    async def state():
        info = json.loads((await inside.request("$JS.API.STREAM.INFO.TASKS", b"", timeout=15)).data)
        return info["state"]["last_seq"]

    before = await state()
    for aim in (f"spotreel.log.{victim}.succeeded", f"spotreel.log.{victim}.queued.t2v-A14B.1"):
        await nc.publish("spotreel.get", json.dumps({"id": victim}).encode(), reply=aim)
        await nc.publish("spotreel.inbox", b"{}", reply=aim)
        await nc.publish("$JS.API.CONSUMER.MSG.NEXT.EVENTS.py", b'{"batch":1,"no_wait":true}', reply=aim)
        body = {"stream_name": "EVENTS", "config": {"name": "aimed", "deliver_subject": aim, "ack_policy": "none",
                                                    "deliver_policy": "all"}}
        try:
            await nc.request("$JS.API.CONSUMER.CREATE.EVENTS.aimed", json.dumps(body).encode(), timeout=5)
        except nats.errors.Error:
            pass
    # The answers to the above are given in order with this one.
    await nc.request("spotreel.get", json.dumps({"id": victim}).encode(), timeout=15)
    await asyncio.sleep(1)
    assert await state() == before, "the log has grown"
    ok("forged")


async def main(url, user, password, other, other_password, operator_password):
    errors = []

    async def on_error(error):
        errors.append(str(error))

    nc = await nats.connect(url, user=user, password=password, error_cb=on_error, max_reconnect_attempts=3)
    inside = await nats.connect(url, user=other, password=other_password)
    succeeded = await nc.subscribe("spotreel.task.*.succeeded")
    await nc.flush()
    ids = [await verbs(nc), await inbox(nc)]
    await videos(succeeded, ids)
    await durable(nc, ids)
    # Only an operator asks for services.
    operator = await nats.connect(url, user="operator", password=operator_password)
    await discovery(operator)
    await operator.close()
    await forbidden(nc, errors, ids[0])
    await forged(nc, inside, ids[0])
    await nc.close()
    await inside.close()


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 240))
