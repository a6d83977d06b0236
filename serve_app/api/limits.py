"""What one request may cost before it is refused. Bytes, characters, counts; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the door. Every one of them is checked before a backend or the store hears of the request."""

    max_body_bytes: int = 8 * 1024 * 1024
    body_timeout_s: float = 30.0
    """From the request's headers to the last byte of a JSON body; for an upload, from one piece to the next."""

    max_upload_bytes: int = 513 * 1024 * 1024
    """Of a body that is not read whole: the largest file of OpenAI's, and its form around it."""

    max_file_bytes: int = 512 * 1024 * 1024
    max_part_bytes: int = 64 * 1024 * 1024
    max_joined_bytes: int = 8 * 1024 * 1024 * 1024
    """Of a file that came in parts."""

    max_batch_bytes: int = 200 * 1024 * 1024
    max_batch_lines: int = 50_000

    max_depth: int = 32
    max_messages: int = 2048
    max_tools: int = 128
    max_tool_schema_bytes: int = 65536
    max_choices: int = 8
    max_stop: int = 4
    max_stop_chars: int = 256
    max_logit_bias: int = 1024

    silence_s: float = 10.0
    """How long a backend may give no sign of life (not even an empty list) before it is given up."""

    keep_alive_s: float = 10.0
    """How long a stream may be quiet towards the client before it gets a comment line."""

    timeout_s: float = 600.0
    """The whole request, from admission to the terminal event."""

    background_timeout_s: float = 3600.0
    """The same for a response in the background, from the moment its server took it."""

    write_timeout_s: float = 60.0
    """How long one write to a client that does not read may take."""

    resume_s: float = 60.0
    """How long a stored stream goes on being generated with nobody reading it, so that its client can come back."""

    store_timeout_s: float = 2.0
    """How long a stored request waits for the database before it is refused."""
