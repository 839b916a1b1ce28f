"""Where secrets come from: files and the environment, never the settings themselves.

vLLM logs `--additional-config` when it starts, and every process list shows it.
"""

import re
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

from hallmark.poc.core.errors import FieldError
from hallmark.poc.webhooks.signature import parse_secret

__all__ = [
    "API_KEY_VARIABLE",
    "MAX_WEBHOOK_SECRETS",
    "NOT_SHOWN",
    "WEBHOOK_SECRETS_VARIABLE",
    "read_api_key",
    "read_webhook_secrets",
    "token_of_file",
    "token_of_variable",
]

API_KEY_VARIABLE: Final = "HALLMARK_API_KEY"
WEBHOOK_SECRETS_VARIABLE: Final = "HALLMARK_WEBHOOK_SECRETS"

MAX_WEBHOOK_SECRETS: Final = 2
"""The one that is valid, and during a change of secrets the other one."""

NOT_SHOWN: Final = "(not shown)"
"""In the place of a value that is a secret, or may be one."""

_MAX_FILE = 2**16
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def read_api_key(field: str, path: str | None, environment: Mapping[str, str]) -> SecretStr | None:
    """Return the token of the control routes; None where there is none.

    Args:
        field: The setting that names the file, for errors.
        path: The file whose content is the token, white space around it left out.
        environment: Where `HALLMARK_API_KEY` is looked up.

    Raises:
        FieldError: The file cannot be read, one of both is empty or no token, or they differ. No error has
            a token in it, nor has its context.
    """
    from_variable = token_of_variable(API_KEY_VARIABLE, environment)
    if path is None:
        return from_variable
    token = token_of_file(field, path)
    if from_variable not in (None, token):
        raise FieldError(
            field, path, f"the token of {API_KEY_VARIABLE}, where both are given; they are two different ones"
        )
    return token


def token_of_variable(name: str, environment: Mapping[str, str]) -> SecretStr | None:
    """Return the token that a variable holds, without white space around it; None where it is not set.

    Raises:
        FieldError: It is empty or no token. The error has no token in it.
    """
    token = environment.get(name)
    if token is None:
        return None
    token = token.strip()
    allowed = "a token on one line; set it to a non-empty token, or unset it to have none"
    _check_token(name, token, NOT_SHOWN if token else "", allowed)
    return SecretStr(token)


def token_of_file(field: str, path: str) -> SecretStr:
    """Return the token that a file holds, without white space around it.

    Args:
        field: What names the file, for errors.
        path: Of the file.

    Raises:
        FieldError: It cannot be read, is empty or holds no token. The error has no token in it.
    """
    token = _read(field, path, "the token").strip()
    _check_token(field, token, path, "a file whose only line is the token")
    return SecretStr(token)


def read_webhook_secrets(
    field: str, path: str | None, environment: Mapping[str, str]
) -> tuple[SecretStr, ...]:
    """Return the secrets that callbacks are signed with; without any, they are not signed.

    Args:
        field: The setting that names the file, for errors.
        path: The file that has one secret on each line; empty lines do not count.
        environment: Where `HALLMARK_WEBHOOK_SECRETS` is looked up, with white space between secrets.

    Raises:
        FieldError: The file cannot be read, what is given holds no secret, too many or one of another form,
            or both are given and differ. No error has a secret in it, nor has its context.
    """
    given = environment.get(WEBHOOK_SECRETS_VARIABLE)
    from_variable = None if given is None else given.split()
    if from_variable is not None:
        _check_secrets(WEBHOOK_SECRETS_VARIABLE, NOT_SHOWN if from_variable else "", from_variable)
    if path is None:
        return tuple(SecretStr(secret) for secret in from_variable or ())
    lines = [line.strip() for line in _read(field, path, "the secrets").splitlines()]
    secrets = [line for line in lines if line]
    _check_secrets(field, path, secrets)
    if from_variable not in (None, secrets):
        raise FieldError(
            field,
            path,
            f"the secrets of {WEBHOOK_SECRETS_VARIABLE} in their order, where both are given; they differ",
        )
    return tuple(SecretStr(secret) for secret in secrets)


def _check_token(field: str, token: str, shown: str, allowed: str) -> None:
    if not token or _CONTROL_CHARACTERS.search(token):
        raise FieldError(field, shown, allowed)


def _check_secrets(field: str, shown: str, secrets: list[str]) -> None:
    form = f"1 to {MAX_WEBHOOK_SECRETS} secrets, each whsec_ and then base64 of 24 to 64 bytes"
    if not 1 <= len(secrets) <= MAX_WEBHOOK_SECRETS:
        raise FieldError(field, shown, f"{form}; {len(secrets)} are given")
    for number, secret in enumerate(secrets, 1):
        if not _is_webhook_secret(secret):
            raise FieldError(field, shown, f"{form}; number {number} is none")


def _is_webhook_secret(text: str) -> bool:
    try:
        parse_secret(text)
    except FieldError:
        return False
    return True


def _read(field: str, path: str, what: str) -> str:
    """Return a file's text.

    Nothing is raised while another error is handled: the text would hang on it.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE + 1)
        why = f"it is longer than {_MAX_FILE} bytes" if len(content) > _MAX_FILE else ""
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
    except ValueError as exc:  # a null byte in the path
        why = str(exc)
    if not why:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            why = "it is not UTF-8"
    raise FieldError(field, path, f"the path of a file with {what} in it ({why})")
