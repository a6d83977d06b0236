"""The vocabulary of the house: every value that crosses a process, a thread or a room.

Values only: frozen, slotted, no behaviour beyond their own arithmetic, and no imports from the rest of the project.
A stream of events is ``Started``, then any number of ``Delta``, ``Embedded`` or ``Relayed``, then exactly one of
``Done`` or ``Failed``: from every backend, always. Events travel in lists (what was ready at the same moment); an
empty list says "alive, nothing to tell yet" and is how a backend that waits or computes keeps its stream from being
cut.
"""

from serve_app.protocol.answers import Answers, Attempt, Claim, KeptAnswer
from serve_app.protocol.batches import Batch, Batches, BatchPage, BatchStatus, Ending, Progress
from serve_app.protocol.events import (
    Backend,
    Delta,
    Done,
    Embedded,
    Event,
    Failed,
    ModelCard,
    Relayed,
    Started,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from serve_app.protocol.files import File, FilePage, FileQuery, Files, Part, Upload
from serve_app.protocol.forward import RawBody, RawEvent, RawHead, RawRequest, Upstream
from serve_app.protocol.ledger import Closed, CompletionQuery, CursorNotFound, Opened, Page, Store, StoreError, Turn
from serve_app.protocol.requests import Chat, Constraint, Embed, Generate, Relay, Sampling, Text
from serve_app.protocol.responses import Conversations, History, Orphan, Responses, ResponseTurn
from serve_app.protocol.sampling import Dry, DynamicTemperature, Mirostat, Xtc
from serve_app.protocol.streams import Streams, Stretch
from serve_app.protocol.vocabulary import FailureCode, Finish, Json, Order, Tier
from serve_app.protocol.words import Detokenize, Render, Tokenize, Tokenized, Words, Work, Written

__all__ = [
    "Answers",
    "Attempt",
    "Backend",
    "Batch",
    "BatchPage",
    "BatchStatus",
    "Batches",
    "Chat",
    "Claim",
    "Closed",
    "CompletionQuery",
    "Constraint",
    "Conversations",
    "CursorNotFound",
    "Delta",
    "Detokenize",
    "Done",
    "Dry",
    "DynamicTemperature",
    "Embed",
    "Embedded",
    "Ending",
    "Event",
    "Failed",
    "FailureCode",
    "File",
    "FilePage",
    "FileQuery",
    "Files",
    "Finish",
    "Generate",
    "History",
    "Json",
    "KeptAnswer",
    "Mirostat",
    "ModelCard",
    "Opened",
    "Order",
    "Orphan",
    "Page",
    "Part",
    "Progress",
    "RawBody",
    "RawEvent",
    "RawHead",
    "RawRequest",
    "Relay",
    "Relayed",
    "Render",
    "ResponseTurn",
    "Responses",
    "Sampling",
    "Started",
    "Store",
    "StoreError",
    "Streams",
    "Stretch",
    "Text",
    "Tier",
    "TokenLogprob",
    "Tokenize",
    "Tokenized",
    "ToolCallDelta",
    "Turn",
    "Upload",
    "Upstream",
    "Usage",
    "Words",
    "Work",
    "Written",
    "Xtc",
]
