"""OpenAI's request shapes: what is accepted, within which bounds, and how a refusal names the parameter at fault."""
