"""Secrets that this process knows, and the one function that masks them in text that leaves it.

Everything that a command prints, logs or raises passes `redact`: see `no_time_to_train.process`.
"""

_MASK = "..."
_SHORTEST = 4
_secrets: set[str] = set()


def remember_secret(value: str | None) -> None:
    """Add a value that must never be printed, such as a token or a link's signature.

    Args:
        value: The secret itself. Values of fewer than 4 characters are not masked: they would hide ordinary text.
    """
    if value and len(value) >= _SHORTEST:
        _secrets.add(value)


def redact(text: str) -> str:
    """Return `text` with every known secret replaced by `...`.

    Examples:
        >>> remember_secret("hf_exampletoken")
        >>> redact("refused: Bearer hf_exampletoken")
        'refused: Bearer ...'
    """
    # The longest first: one secret may be part of another.
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text
