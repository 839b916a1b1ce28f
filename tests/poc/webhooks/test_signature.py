"""Signatures against the published vector and the Standard Webhooks library, and what is not one of them."""

import base64
import re
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.datastructures import Headers

from hallmark.poc.core.errors import FieldError, SignatureError
from hallmark.poc.webhooks.signature import generate_secret, parse_secret, signature, verify

# The vector of the reference libraries' tests ("sign function works").
TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

SECRET = parse_secret(TEXT)
OTHER = bytes(range(32))


def headers(**changes: str | None) -> dict[str, str]:
    """The vector's headers with changes; None leaves one out."""
    all_ = {"id": ID, "timestamp": str(TIMESTAMP), "signature": SIGNATURE, **changes}
    return {f"webhook-{name}": value for name, value in all_.items() if value is not None}


def refusal(given: Mapping[str, str], body: bytes = BODY, **options: Any) -> str:
    """The sentence with which a delivery is refused."""
    with pytest.raises(SignatureError) as caught:
        verify([SECRET], given, body, **{"now": TIMESTAMP, **options})
    assert TEXT not in str(caught.value)
    assert SIGNATURE not in str(caught.value)
    return str(caught.value)


class TestSecrets:
    def test_the_text_is_a_prefix_and_base64(self) -> None:
        assert base64.b64encode(SECRET).decode() == TEXT.removeprefix("whsec_")

    @pytest.mark.parametrize("length", [24, 25, 26, 32, 63, 64])
    def test_padding_may_be_left_out(self, length: int) -> None:
        key = bytes(range(length))
        text = "whsec_" + base64.b64encode(key).decode()
        assert parse_secret(text) == parse_secret(text.rstrip("=")) == key

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "whsec_",
            TEXT.removeprefix("whsec_"),
            TEXT.upper(),
            TEXT[:-1],
            f" {TEXT}",
            f"{TEXT}\n",
            f"{TEXT}=",
            f"{TEXT}é",
            f"whsec_{TEXT}",
            "whsec_" + base64.b64encode(bytes(23)).decode(),
            "whsec_" + base64.b64encode(bytes(65)).decode(),
            "whsec_" + base64.urlsafe_b64encode(b"\xff" * 24).decode(),
        ],
    )
    def test_anything_else_is_refused_and_not_repeated(self, text: str) -> None:
        with pytest.raises(FieldError) as caught:
            parse_secret(text)
        assert str(caught.value) == (
            "webhook secret: '(not shown)' is not allowed; allowed: whsec_ and the base64 of 24 to 64 bytes"
        )
        assert caught.value.__cause__ is caught.value.__context__ is None
        key = text.strip().removeprefix("whsec_")
        assert not key or key not in "".join(traceback.format_exception(caught.value))

    def test_a_new_one_is_valid_and_new(self) -> None:
        texts = {generate_secret() for _ in range(100)}
        assert len(texts) == 100
        assert {len(parse_secret(text)) for text in texts} == {32}
        assert all(Webhook(text) for text in texts), "the library takes them too"


class TestKnownAnswers:
    def test_the_published_vector(self) -> None:
        assert signature([SECRET], ID, TIMESTAMP, BODY) == SIGNATURE
        verify([SECRET], headers(), BODY, now=TIMESTAMP)

    @given(
        st.binary(min_size=24, max_size=64),
        st.from_regex(r"[A-Za-z0-9_]{1,40}", fullmatch=True),
        st.integers(0, 2**32),
        st.text(),
    )
    def test_the_library_signs_alike(self, key: bytes, webhook_id: str, timestamp: int, body: str) -> None:
        theirs = Webhook(key).sign(webhook_id, datetime.fromtimestamp(timestamp, UTC), body)
        assert signature([key], webhook_id, timestamp, body.encode()) == theirs
        given = headers(id=webhook_id, timestamp=str(timestamp), signature=theirs)
        verify([key], given, body.encode(), now=timestamp)

    @given(st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=3), st.text())
    def test_the_library_accepts_what_is_signed_here(self, keys: list[bytes], body: str) -> None:
        now = int(time.time())
        signed = headers(timestamp=str(now), signature=signature(keys, ID, now, body.encode()))
        for key in keys:
            Webhook(key).verify(body, signed, json_parse=False)
        with pytest.raises(WebhookVerificationError):
            Webhook(OTHER + b"another").verify(body, signed, json_parse=False)

    def test_a_receiver_of_symmetric_signatures_passes_over_the_asymmetric_ones(self) -> None:
        """The specification's example of a header has one of each."""
        asymmetric = (
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
        )
        verify([SECRET], headers(signature=f"{asymmetric} {SIGNATURE}"), BODY, now=TIMESTAMP)
        assert "no signature that fits" in refusal(headers(signature=asymmetric))
        # The right text under another version's name is not a signature of this one.
        for version in ("v1a", "v2", "V1", "", "v1 "):
            assert "no signature that fits" in refusal(headers(signature=SIGNATURE.replace("v1", version)))


class TestRotation:
    NEW = bytes(range(40, 72))

    def test_one_signature_for_each_secret_in_order(self) -> None:
        both = signature([SECRET, self.NEW], ID, TIMESTAMP, BODY)
        assert both == f"{SIGNATURE} {signature([self.NEW], ID, TIMESTAMP, BODY)}"

    @pytest.mark.parametrize("sender", [[SECRET], [NEW], [SECRET, NEW], [NEW, SECRET]])
    @pytest.mark.parametrize("receiver", [[SECRET], [NEW], [SECRET, NEW], [NEW, SECRET]])
    def test_one_secret_in_common_is_enough_and_needed(
        self, sender: list[bytes], receiver: list[bytes]
    ) -> None:
        signed = headers(signature=signature(sender, ID, TIMESTAMP, BODY))
        if set(sender) & set(receiver):
            verify(receiver, signed, BODY, now=TIMESTAMP)
        else:
            with pytest.raises(SignatureError, match="no signature that fits"):
                verify(receiver, signed, BODY, now=TIMESTAMP)

    def test_without_secrets_nothing_is_signed_and_nothing_accepted(self) -> None:
        with pytest.raises(ValueError, match="at least one secret"):
            signature([], ID, TIMESTAMP, BODY)
        with pytest.raises(SignatureError):
            verify([], headers(), BODY, now=TIMESTAMP)


class TestTampering:
    @pytest.mark.parametrize("bit", range(len(BODY) * 8))
    def test_one_bit_of_the_body(self, bit: int) -> None:
        body = bytearray(BODY)
        body[bit // 8] ^= 1 << bit % 8
        assert "no signature that fits" in refusal(headers(), bytes(body))

    @pytest.mark.parametrize("body", [b"", BODY[:-1], BODY + b"\n", b" " + BODY])
    def test_length_of_the_body(self, body: bytes) -> None:
        assert "no signature that fits" in refusal(headers(), body)

    @pytest.mark.parametrize(
        "changes",
        [
            {"id": f"{ID}0"},
            {"id": ID.lower()},
            {"timestamp": str(TIMESTAMP + 1)},
            {"timestamp": f"0{TIMESTAMP}"},
            {"signature": SIGNATURE[:-2] + "A="},
            {"signature": SIGNATURE[:-1]},
            {"signature": SIGNATURE + "="},
            {"signature": SIGNATURE.lower()},
            {"signature": "v1," + SIGNATURE[4:]},
            {"signature": signature([OTHER], ID, TIMESTAMP, BODY)},
        ],
    )
    def test_the_headers(self, changes: dict[str, str]) -> None:
        assert "no signature that fits" in refusal(headers(**changes))

    def test_what_is_signed_cannot_be_cut_elsewhere(self) -> None:
        """The full stops between the parts would allow it, if ids could have any."""
        stolen = signature([SECRET], "msg", 5, b"6.{}")
        moved = {"webhook-id": "msg.5", "webhook-timestamp": "6", "webhook-signature": stolen}
        assert "webhook-id is not" in refusal(moved, b"{}", now=6)


class TestTolerance:
    @pytest.mark.parametrize("offset", [-300, -299.5, 0, 299.5, 300])
    def test_within(self, offset: float) -> None:
        verify([SECRET], headers(), BODY, now=TIMESTAMP + offset)

    @pytest.mark.parametrize(
        ("offset", "sentence"),
        [(300.01, "too old"), (301, "too old"), (-300.01, "in the future"), (1e12, "too old")],
    )
    def test_beyond(self, offset: float, sentence: str) -> None:
        assert sentence in refusal(headers(), now=TIMESTAMP + offset)

    def test_it_can_be_chosen(self) -> None:
        verify([SECRET], headers(), BODY, now=TIMESTAMP + 1000, tolerance=1000)
        assert "signed 6 s ago, allowed: 5 s" in refusal(headers(), now=TIMESTAMP + 6, tolerance=5)

    def test_the_clock_is_asked_where_none_is_given(self) -> None:
        now = int(time.time())
        verify([SECRET], headers(timestamp=str(now), signature=signature([SECRET], ID, now, BODY)), BODY)
        assert "too old" in refusal(headers(), now=None)


class TestMalformedHeaders:
    @pytest.mark.parametrize("name", ["id", "timestamp", "signature"])
    def test_missing_empty_or_repeated(self, name: str) -> None:
        for value in (None, ""):
            assert refusal(headers(**{name: value})) == f"the header webhook-{name} is missing"
        field = f"webhook-{name}"
        pairs = [(key.encode(), value.encode()) for key, value in headers().items()]
        repeated = Headers(raw=[*pairs, (field.encode(), headers()[field].encode())])
        assert refusal(repeated) == f"the header {field} is there 2 times"

    @pytest.mark.parametrize("kind", [dict, httpx.Headers, Headers])
    def test_names_in_any_case(self, kind: Any) -> None:
        for rename in (str.lower, str.upper, str.title):
            verify(
                [SECRET], kind({rename(key): text for key, text in headers().items()}), BODY, now=TIMESTAMP
            )

    @pytest.mark.parametrize(
        "value",
        [
            *("soon", "-1", "+1", "1e9", "0x10", "nan", "inf", " 1614265330", "1614265330\n", "1614265330.5"),
            *("1_614_265_330", "\u0661\u0666", "\u00b2", "9" * 16, "9" * 5000),
        ],
    )
    def test_a_timestamp_that_is_no_number(self, value: str) -> None:
        assert "webhook-timestamp is not a number" in refusal(headers(timestamp=value))

    @pytest.mark.parametrize("value", ["a b", "a.b", "é", "\ud800", "\x00", "a\n", "x" * 257])
    def test_an_id_that_is_none(self, value: str) -> None:
        assert "webhook-id is not" in refusal(headers(id=value))

    @pytest.mark.parametrize(
        "value",
        [
            *("v1", "v1,", ",", " ", ",,,", "v1,é", "v1,\ud800", "v1,\x00", "v1," + "A" * 10_000),
            *(f"v1, {SIGNATURE[3:]}", SIGNATURE.replace(",", " "), SIGNATURE.replace(",", ",,")),
            *(f"{SIGNATURE},", SIGNATURE + SIGNATURE),
        ],
    )
    def test_a_signature_that_is_none(self, value: str) -> None:
        assert "no signature that fits" in refusal(headers(signature=value))

    @pytest.mark.parametrize("before", ["", " ", "v1", "v1, ", "garbage ", "v1,é ", "v9,x "])
    def test_what_else_stands_in_the_header_does_not_matter(self, before: str) -> None:
        verify([SECRET], headers(signature=f"{before.strip()} {SIGNATURE} "), BODY, now=TIMESTAMP)

    # Surrogates too: what stands in a header need not have a form in UTF-8.
    ANY = st.text(st.characters(exclude_categories=()))

    @given(
        st.dictionaries(st.sampled_from([*headers(), "Webhook-Id", "x"]), ANY | st.just(SIGNATURE)),
        st.binary(),
    )
    def test_whatever_comes_is_refused_with_a_sentence(self, given: dict[str, str], body: bytes) -> None:
        assert re.match(r"the (header webhook-\w+|delivery) ", refusal(given, body))

    @given(ANY, ANY, ANY)
    def test_whatever_the_three_are(self, webhook_id: str, timestamp: str, signatures: str) -> None:
        given = headers(id=webhook_id, timestamp=timestamp, signature=f"v1,{signatures}")
        assert re.match(r"the (header webhook-\w+|delivery) ", refusal(given))
