"""Whether a batch was computed by the round's settings, and if not, which of them differ."""

from collections.abc import Collection, Iterator, Mapping

from hallmark.poc.core.errors import StateError
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round, round_digest
from hallmark.poc.protocol.streams import PROTOCOL

__all__ = ["check_settings"]


def check_settings(proof: ProofBatch, round_: Round, model_names: Collection[str] = ()) -> None:
    """Refuse a batch whose round digest is another one than the round's, saying what differs where it can.

    A batch without a digest, from older clients, cannot be checked.

    Args:
        proof: The batch.
        round_: The round.
        model_names: What the round might call the model, other than what it does here.

    Raises:
        StateError: The digests differ.
    """
    if proof.round_digest in (None, round_.digest):
        return
    found = _found_settings(proof, round_, model_names)
    if found is not None:
        reason = f"its digest is that of {found}"
    else:
        reason = (
            "width, seq_len, input_scale, the projection, its scale or the name of the model differ, or it "
            f"follows another version of the protocol than {PROTOCOL}"
        )
    raise StateError(
        f"the batch was computed with the round settings {proof.round_digest!r}, this round has "
        f"{round_.digest!r}: {reason}"
    )


def _found_settings(proof: ProofBatch, round_: Round, model_names: Collection[str]) -> str | None:
    """The settings that the batch's digest is of and this round's is not, in words; None if not found.

    Looked for are those that leave only a few possibilities: the length that the batch states together with
    every scale, projection and known name of the model; and width and length each alone.
    """
    ours: dict[str, object] = {
        "hidden_size": round_.hidden_size,
        "seq_len": round_.config.seq_len,
        "input_scale": round_.input_scale,
        "projection": round_.config.use_random_projection,
        "projection_scale": round_.config.projection_scale,
        "model": round_.config.model,
    }
    for theirs in _candidates(ours, proof.numerics or {}, model_names):
        settings = {**ours, **theirs}
        if round_digest(**settings) == proof.round_digest:  # type: ignore[arg-type]  # of the same types as `ours`
            return ", ".join(
                f"{name} {_said(value)} and not {_said(ours[name])}"
                for name, value in settings.items()
                if value != ours[name]
            )
    return None


def _candidates(
    ours: Mapping[str, object], numerics: Mapping[str, object], model_names: Collection[str]
) -> Iterator[Mapping[str, object]]:
    stated = numerics.get("seq_len")
    lengths = [ours["seq_len"], *([stated] if isinstance(stated, int) and stated > 0 else [])]
    for length in dict.fromkeys(lengths):
        for name in dict.fromkeys([ours["model"], "", *model_names]):
            for projection in (True, False):
                for exponent in range(-24, 9):
                    yield {
                        "seq_len": length,
                        "model": name,
                        "projection": projection,
                        "input_scale": 2.0**exponent,
                    }
    yield from ({"hidden_size": width} for width in range(32, 2**15 + 1, 32))
    yield from ({"seq_len": length} for length in range(1, 2**13 + 1))


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return repr(value)
