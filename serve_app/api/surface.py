"""OpenAI's API, address by address, as its specification has it: what there is, whoever of us answers it."""

from __future__ import annotations

# Addresses with a name where others have a parameter come first: the first that matches is taken.
_SURFACE = """
/assistants GET POST
/assistants/{assistant_id} DELETE GET POST
/audio/speech POST
/audio/transcriptions POST
/audio/translations POST
/audio/voice_consents GET POST
/audio/voice_consents/{consent_id} DELETE GET POST
/audio/voices POST
/batches GET POST
/batches/{batch_id} GET
/batches/{batch_id}/cancel POST
/chat/completions GET POST
/chat/completions/{completion_id} DELETE GET POST
/chat/completions/{completion_id}/messages GET
/chatkit/sessions POST
/chatkit/sessions/{session_id}/cancel POST
/chatkit/threads GET
/chatkit/threads/{thread_id} DELETE GET
/chatkit/threads/{thread_id}/items GET
/completions POST
/containers GET POST
/containers/{container_id} DELETE GET
/containers/{container_id}/files GET POST
/containers/{container_id}/files/{file_id} DELETE GET
/containers/{container_id}/files/{file_id}/content GET
/content_provenance_checks POST
/conversations POST
/conversations/{conversation_id} DELETE GET POST
/conversations/{conversation_id}/items GET POST
/conversations/{conversation_id}/items/{item_id} DELETE GET
/embeddings POST
/evals GET POST
/evals/{eval_id} DELETE GET POST
/evals/{eval_id}/runs GET POST
/evals/{eval_id}/runs/{run_id} DELETE GET POST
/evals/{eval_id}/runs/{run_id}/output_items GET
/evals/{eval_id}/runs/{run_id}/output_items/{output_item_id} GET
/files GET POST
/files/{file_id} DELETE GET
/files/{file_id}/content GET
/fine_tuning/alpha/graders/run POST
/fine_tuning/alpha/graders/validate POST
/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions GET POST
/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions/{permission_id} DELETE
/fine_tuning/jobs GET POST
/fine_tuning/jobs/{fine_tuning_job_id} GET
/fine_tuning/jobs/{fine_tuning_job_id}/cancel POST
/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints GET
/fine_tuning/jobs/{fine_tuning_job_id}/events GET
/fine_tuning/jobs/{fine_tuning_job_id}/pause POST
/fine_tuning/jobs/{fine_tuning_job_id}/resume POST
/images/edits POST
/images/generations POST
/images/variations POST
/models GET
/models/{model} DELETE GET
/moderations POST
/organization/admin_api_keys GET POST
/organization/admin_api_keys/{key_id} DELETE GET
/organization/audit_logs GET
/organization/certificates GET POST
/organization/certificates/activate POST
/organization/certificates/deactivate POST
/organization/certificates/{certificate_id} DELETE GET POST
/organization/costs GET
/organization/data_retention GET POST
/organization/groups GET POST
/organization/groups/{group_id} DELETE GET POST
/organization/groups/{group_id}/roles GET POST
/organization/groups/{group_id}/roles/{role_id} DELETE GET
/organization/groups/{group_id}/users GET POST
/organization/groups/{group_id}/users/{user_id} DELETE GET
/organization/invites GET POST
/organization/invites/{invite_id} DELETE GET
/organization/projects GET POST
/organization/projects/{project_id} GET POST
/organization/projects/{project_id}/api_keys GET
/organization/projects/{project_id}/api_keys/{api_key_id} DELETE GET
/organization/projects/{project_id}/archive POST
/organization/projects/{project_id}/certificates GET
/organization/projects/{project_id}/certificates/activate POST
/organization/projects/{project_id}/certificates/deactivate POST
/organization/projects/{project_id}/data_retention GET POST
/organization/projects/{project_id}/groups GET POST
/organization/projects/{project_id}/groups/{group_id} DELETE GET
/organization/projects/{project_id}/hosted_tool_permissions GET POST
/organization/projects/{project_id}/model_permissions DELETE GET POST
/organization/projects/{project_id}/rate_limits GET
/organization/projects/{project_id}/rate_limits/{rate_limit_id} POST
/organization/projects/{project_id}/service_accounts GET POST
/organization/projects/{project_id}/service_accounts/{service_account_id} DELETE GET POST
/organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys POST
/organization/projects/{project_id}/spend_alerts GET POST
/organization/projects/{project_id}/spend_alerts/{alert_id} DELETE GET POST
/organization/projects/{project_id}/spend_limit DELETE GET POST
/organization/projects/{project_id}/users GET POST
/organization/projects/{project_id}/users/{user_id} DELETE GET POST
/organization/roles GET POST
/organization/roles/{role_id} DELETE GET POST
/organization/spend_alerts GET POST
/organization/spend_alerts/{alert_id} DELETE GET POST
/organization/spend_limit DELETE GET POST
/organization/usage/audio_speeches GET
/organization/usage/audio_transcriptions GET
/organization/usage/code_interpreter_sessions GET
/organization/usage/completions GET
/organization/usage/embeddings GET
/organization/usage/file_search_calls GET
/organization/usage/images GET
/organization/usage/moderations GET
/organization/usage/vector_stores GET
/organization/usage/web_search_calls GET
/organization/users GET
/organization/users/{user_id} DELETE GET POST
/organization/users/{user_id}/roles GET POST
/organization/users/{user_id}/roles/{role_id} DELETE GET
/projects/{project_id}/groups/{group_id}/roles GET POST
/projects/{project_id}/groups/{group_id}/roles/{role_id} DELETE GET
/projects/{project_id}/roles GET POST
/projects/{project_id}/roles/{role_id} DELETE GET POST
/projects/{project_id}/users/{user_id}/roles GET POST
/projects/{project_id}/users/{user_id}/roles/{role_id} DELETE GET
/realtime/calls POST
/realtime/calls/{call_id}/accept POST
/realtime/calls/{call_id}/hangup POST
/realtime/calls/{call_id}/refer POST
/realtime/calls/{call_id}/reject POST
/realtime/client_secrets POST
/realtime/sessions POST
/realtime/transcription_sessions POST
/realtime/translations/client_secrets POST
/responses POST
/responses/compact POST
/responses/input_tokens POST
/responses/{response_id} DELETE GET
/responses/{response_id}/cancel POST
/responses/{response_id}/input_items GET
/skills GET POST
/skills/{skill_id} DELETE GET POST
/skills/{skill_id}/content GET
/skills/{skill_id}/versions GET POST
/skills/{skill_id}/versions/{version} DELETE GET
/skills/{skill_id}/versions/{version}/content GET
/threads POST
/threads/runs POST
/threads/{thread_id} DELETE GET POST
/threads/{thread_id}/messages GET POST
/threads/{thread_id}/messages/{message_id} DELETE GET POST
/threads/{thread_id}/runs GET POST
/threads/{thread_id}/runs/{run_id} GET POST
/threads/{thread_id}/runs/{run_id}/cancel POST
/threads/{thread_id}/runs/{run_id}/steps GET
/threads/{thread_id}/runs/{run_id}/steps/{step_id} GET
/threads/{thread_id}/runs/{run_id}/submit_tool_outputs POST
/uploads POST
/uploads/{upload_id}/cancel POST
/uploads/{upload_id}/complete POST
/uploads/{upload_id}/parts POST
/vector_stores GET POST
/vector_stores/{vector_store_id} DELETE GET POST
/vector_stores/{vector_store_id}/file_batches POST
/vector_stores/{vector_store_id}/file_batches/{batch_id} GET
/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel POST
/vector_stores/{vector_store_id}/file_batches/{batch_id}/files GET
/vector_stores/{vector_store_id}/files GET POST
/vector_stores/{vector_store_id}/files/{file_id} DELETE GET POST
/vector_stores/{vector_store_id}/files/{file_id}/content GET
/vector_stores/{vector_store_id}/search POST
/videos GET POST
/videos/characters POST
/videos/characters/{character_id} GET
/videos/edits POST
/videos/extensions POST
/videos/{video_id} DELETE GET
/videos/{video_id}/content GET
/videos/{video_id}/remix POST
"""

_CALLS = frozenset(
    {
        "/audio/speech",
        "/audio/transcriptions",
        "/audio/translations",
        "/chat/completions",
        "/completions",
        "/content_provenance_checks",
        "/embeddings",
        "/fine_tuning/alpha/graders/run",
        "/fine_tuning/alpha/graders/validate",
        "/images/edits",
        "/images/generations",
        "/images/variations",
        "/moderations",
        "/rerank",
        "/responses/compact",
        "/responses/input_tokens",
    }
)


def surface() -> list[tuple[str, list[str]]]:
    """Every path, relative to ``/v1``, with its methods."""
    rows = (line.split() for line in _SURFACE.strip().splitlines())
    return [(path, methods) for path, *methods in rows]


def leaves_nothing_behind(path: str, method: str) -> bool:
    """Whether a call answers once and for all: no object is made, read or changed in the account it is made with."""
    return method == "POST" and path in _CALLS


def administers(path: str) -> bool:
    """Whether the address is about the account itself: its keys, its users, its bills."""
    return path.startswith(("/organization/", "/projects/"))
