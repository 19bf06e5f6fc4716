"""Two paths as real services have them, for uvicorn: `uvicorn tests.services.tokens:app`.

POST /v1/chat/completions streams 80 tokens in 8 s as OpenAI's API does; PUT stores a blob as a registry does, and
answers 201 with its digest.
"""

import asyncio
import hashlib
import json


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["method"] == "PUT":
        await store(receive, send)
    elif scope["path"] == "/v1/chat/completions":
        await complete(receive, send)
    else:
        await answer(send, 200, b"content-type", b"text/plain")
        await send({"type": "http.response.body", "body": b"ok"})


async def answer(send, status, *field):
    await send({"type": "http.response.start", "status": status, "headers": [field]})


async def store(receive, send):
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, 201, b"docker-content-digest", b"sha256:" + digest.hexdigest().encode())
    await send({"type": "http.response.body", "body": b""})


async def complete(receive, send):
    await receive()
    await answer(send, 200, b"content-type", b"text/event-stream")
    for count in range(80):
        choice = {"index": 0, "delta": {"content": f"token{count} "}, "finish_reason": "stop" if count == 79 else None}
        data = json.dumps({"object": "chat.completion.chunk", "choices": [choice]})
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
