"""Prints how long functions and modules are, and fails where the house's figures are left behind."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE, FUNCTION, MEDIAN, NINETIETH, ACTOR = 300, 60, 8, 30, 100


def main() -> int:
    spans, complaints = [], []
    for path in sorted(p for room in ("serve_app", "deployments", "config") for p in (ROOT / room).rglob("*.py")):
        if "versions" in path.parts:
            continue
        text = path.read_text()
        lines, name = text.count("\n"), path.relative_to(ROOT)
        if lines > MODULE:
            complaints.append(f"{name}: {lines} lines, at most {MODULE}")
        for node in ast.walk(ast.parse(text)):
            span = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                spans.append(span)
                if span > FUNCTION:
                    complaints.append(f"{name}:{node.lineno} {node.name}: {span} lines, at most {FUNCTION}")
            elif isinstance(node, ast.ClassDef) and name.parts[0] == "deployments" and span > ACTOR:
                complaints.append(f"{name}:{node.lineno} {node.name}: {span} lines, at most {ACTOR}")
    spans.sort()
    median, ninetieth = statistics.median(spans), spans[int(len(spans) * 0.9)]
    print(f"{len(spans)} functions: median {median:.0f} lines, 90th percentile {ninetieth}, longest {spans[-1]}")
    if median > MEDIAN or ninetieth > NINETIETH:
        complaints.append(f"functions: at most {MEDIAN} (median) and {NINETIETH} (90th percentile) lines")
    print("\n".join(complaints))
    return len(complaints) > 0


if __name__ == "__main__":
    sys.exit(main())
