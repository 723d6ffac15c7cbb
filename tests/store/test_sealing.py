"""Secrets at rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.sealing import Cipher, DecryptionFailed

SALT = b"salt" * 4
CIPHER = Cipher("a key", SALT)
PLAIN = Cipher(None, SALT)
URL = b"https://contoso.sharepoint.com/_api/v2.0/monitor/1?tempauth=secret"


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens_at_its_place(value: bytes, place: str) -> None:
    """Any value, under any place, sealed or plain."""
    for cipher in (CIPHER, PLAIN):
        assert cipher.decrypt(cipher.encrypt(value, place), place) == value


def test_a_sealed_value_hides_what_it_holds() -> None:
    """Nothing of it is legible, and sealing it twice gives two different values."""
    kept = CIPHER.encrypt(URL, "job")
    assert b"sharepoint" not in kept
    assert b"secret" not in kept
    assert not CIPHER.is_plain(kept)
    assert CIPHER.encrypt(URL, "job") != kept


@pytest.mark.parametrize(
    ("cipher", "place"),
    [
        (Cipher("b key", SALT), "job"),
        (Cipher("a key", b"else" * 4), "job"),
        (PLAIN, "job"),
        (CIPHER, "other"),
        (CIPHER, ""),
    ],
    ids=["another key", "another store", "no key", "another row", "no row"],
)
def test_a_sealed_value_opens_with_nothing_else(cipher: Cipher, place: str) -> None:
    """The key, the store and the row must all be its own."""
    with pytest.raises(DecryptionFailed):
        cipher.decrypt(CIPHER.encrypt(URL, "job"), place)


@given(st.data())
def test_a_changed_or_cut_value_is_broken(data: st.DataObject) -> None:
    """One bit changed, or any number of bytes missing, and it does not open; it never opens to something else."""
    kept = CIPHER.encrypt(URL, "job")
    place = data.draw(st.integers(1, len(kept) - 1))
    changed = bytearray(kept)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(changed), kept[:place]):
        with pytest.raises(DecryptionFailed):
            CIPHER.decrypt(damaged, "job")


@pytest.mark.parametrize("kept", [b"", b"\x01", b"\x01short", b"\x02" + b"x" * 60])
def test_what_is_no_sealed_value_is_broken(kept: bytes) -> None:
    """Empty, too short to hold a nonce, of an unknown kind."""
    with pytest.raises(DecryptionFailed):
        CIPHER.decrypt(kept, "job")


def test_a_plain_value_stays_legible_once_a_key_is_set() -> None:
    """So that a store made without a key can be sealed later."""
    kept = PLAIN.encrypt(URL, "job")
    assert CIPHER.is_plain(kept)
    assert CIPHER.decrypt(kept, "job") == URL
    assert CIPHER.has_key
    assert not PLAIN.has_key


def test_of_several_keys_the_first_encrypts_and_each_decrypts() -> None:
    """Under `new,old` both are legible, and only what is under the old key is encrypted anew."""
    old, new, both = Cipher("old", SALT), Cipher("new", SALT), Cipher("new,old", SALT)
    for cipher in (old, new, PLAIN):
        kept = cipher.encrypt(URL, "job")
        assert both.decrypt(kept, "job") == URL
        again = both.resealed(kept, "job")
        assert (again is None) == (cipher is new)
        if again is not None:
            assert new.decrypt(again, "job") == URL
    assert new.decrypt(both.encrypt(URL, "job"), "job") == URL
    with pytest.raises(DecryptionFailed):
        old.decrypt(both.encrypt(URL, "job"), "job")
    with pytest.raises(DecryptionFailed):
        both.resealed(Cipher("other", SALT).encrypt(URL, "job"), "job")


def test_the_mark_is_that_of_the_first_key() -> None:
    """It says whether two gateways of a store encrypt with the same key, and nothing else of it."""
    assert Cipher("new", SALT).mark == Cipher("new,old", SALT).mark
    assert len({Cipher(key, SALT).mark for key in ("new,old", "old,new", "New", None)}) == 4
    assert Cipher("new", SALT).mark != Cipher("new", b"else" * 4).mark
