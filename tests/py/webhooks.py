"""Verifies requests to webhooks with the package `standardwebhooks`, which is not ours.

    SPOTREEL_KEPT_WEBHOOKS=FILE cargo nextest run --workspace --test webhooks
    python3 tests/py/webhooks.py FILE

The tests of notifier keep each request that they have verified in FILE, as a line of JSON. Run this within five minutes: older
requests are refused, as they should be.
"""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def main(path):
    seen = 0
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            kept = json.loads(line)
            webhook = Webhook(kept["secret"])
            event = webhook.verify(kept["body"], kept["headers"])
            assert event["id"] == kept["headers"]["webhook-id"], kept
            try:
                webhook.verify(kept["body"] + " ", kept["headers"])
            except WebhookVerificationError:
                seen += 1
            else:
                raise AssertionError(f"another body is accepted, too: {kept}")
    assert seen > 0, f"{path} is empty: run the tests with SPOTREEL_KEPT_WEBHOOKS={path}"
    print(f"{seen} requests verified")


if __name__ == "__main__":
    main(*sys.argv[1:])
