"""The table of docs/reference/models.md that is from measurements."""

from _tables import Table, significant, text

FAMILY = {
    "family-noise": Table(
        "family_noise",
        (
            ("family", "family", text),
            ("a row's experts", "experts", text),
            ("states", "states", text),
            ("vLLM and transformers, fp32: RMS, s", "fp32_rms_s", significant(2)),
            ("largest, s", "fp32_max_s", significant(2)),
            ("bf16: RMS, s", "bf16_rms_s", significant(2)),
            ("σ, s", "bf16_sigma_s", significant(2)),
            ("largest, s", "bf16_max_s", significant(2)),
            ("bf16 and fp32: RMS, s", "rounding_rms_s", significant(2)),
            ("largest, s", "rounding_max_s", significant(2)),
        ),
    )
}
