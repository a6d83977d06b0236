"""``/v1/organization``: keys, projects and service accounts, in OpenAI's shapes. For keys with the scope ``admin``."""
