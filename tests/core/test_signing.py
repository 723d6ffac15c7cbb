"""Signatures as Standard Webhooks define them."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.core.keys import is_webhook_secret, new_webhook_secret, webhook_headers, webhook_signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'


def of_length(number: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(number))).decode()


def test_the_vector_of_the_specification() -> None:
    """The value that every library of theirs is tested with."""
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert webhook_signature(SECRET, MESSAGE, "1614265330", BODY) == expected
    assert webhook_headers(SECRET, MESSAGE, 1614265330, BODY) == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": "1614265330",
        "webhook-signature": expected,
    }


@pytest.mark.parametrize(
    "secret",
    [SECRET, of_length(24), of_length(64), new_webhook_secret()],
    ids=["vector", "shortest", "longest", "made"],
)
def test_another_library_agrees(secret: str) -> None:
    """And refuses what was changed by a byte."""
    headers = webhook_headers(secret, MESSAGE, int(time.time()), BODY)
    assert Webhook(secret).verify(BODY, headers) == {"test": 2432232314}
    for changed in (BODY + b" ", BODY[:-1]):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(changed, headers)


@pytest.mark.parametrize(
    "secret",
    [of_length(24), of_length(33), of_length(64), new_webhook_secret()],
    ids=["shortest", "odd", "longest", "made"],
)
def test_secrets(secret: str) -> None:
    """24 to 64 bytes."""
    assert is_webhook_secret(secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        of_length(23),
        of_length(65),
        of_length(32).removeprefix("whsec_"),
        of_length(32).replace("whsec_", "WHSEC_"),
        of_length(32)[:-1],
        of_length(32) + "\n",
        of_length(32).replace("A", "*", 1),
        "whsec_" + "ä" * 40,
        " " + of_length(32),
    ],
)
def test_no_secrets(text: str) -> None:
    """Too short, too long, without the prefix, not base64."""
    assert not is_webhook_secret(text)


def test_each_new_secret_is_another() -> None:
    """From the system's randomness, of 32 bytes."""
    made = {new_webhook_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(base64.b64decode(secret.removeprefix("whsec_"))) for secret in made} == {32}
