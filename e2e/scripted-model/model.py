"""A scripted model: a local server with the APIs of OpenAI and Gemini, which needs no network and no API key.

    python3 model.py                                  # prints its address
    export OPENAI_BASE_URL=http://127.0.0.1:…/v1 OPENAI_API_KEY=none

CI runs the examples against it. The model requests one tool call at a time, as an analyst would, and its final text contains a
number from the tools' answers. If a framework loses an answer, the model replies with an error that names the tool. It
refuses the same requests as the real APIs where that matters. With --show it prints what a framework sends to the model.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TABLE = """import pandas as pd
df = pd.DataFrame({"Ulm": [40, 47, 51, 60, 66, 70], "Bonn": [90, 85, 99, 104, 110, 121]}, index=range(2020, 2026))
print(len(df), "rows")"""
PLOT = """print(f"correlation {df.Ulm.corr(df.Bonn):.4f}")
df.plot(title="Visitors")"""

# The script: for each step a tool, its arguments, and a pattern that its answer must match. Later steps use the named groups.
SCRIPT = [
    ("create_sandbox", {"ttl": "1h"}, r"(?P<sandbox>sbx_\w+)"),
    ("execute_code", {"sandbox_id": "<sandbox>", "code": TABLE}, r"6 rows"),
    ("execute_code", {"sandbox_id": "<sandbox>", "code": PLOT}, r"correlation (?P<correlation>\d\.\d{4})"),
    ("read_file", {"sandbox_id": "<sandbox>", "path": "nothing.csv"}, r"there is no file"),  # the framework must pass the text of a tool error to the model
    ("delete_sandbox", {"sandbox_id": "<sandbox>"}, r"sbx_\w+"),
]


class Refused(Exception):
    """The request lacks something that a real model needs to continue."""


def play(tools: dict[str, dict], answers: list) -> tuple[str, dict | str]:
    """Return the next step after the given answers: a tool and its arguments, or "" and the final text."""
    known = {}
    for (tool, _, pattern), answer in zip(SCRIPT, answers):
        text = words(answer)
        if len(text) > 20_000:
            raise Refused(f"{tool} answered {len(text):,} characters, which may contain an image as base64: {text[:600]}")
        if not (found := re.search(pattern, text)):
            raise Refused(f"the answer of {tool} that the model gets does not match {pattern!r}: {text[:600]}")
        known |= found.groupdict()
    if len(answers) < len(SCRIPT):
        tool, arguments, _ = SCRIPT[len(answers)]
        arguments = {k: known["sandbox"] if v == "<sandbox>" else v for k, v in arguments.items()}
        for offered, schema in tools.items():  # a framework may prefix a tool's name with its server's
            if offered.endswith(tool):
                if missing := arguments.keys() - schema.get("properties", {}).keys():
                    raise Refused(f"the schema of {offered} lacks {missing}: {schema}")
                return offered, arguments
        raise Refused(f"the request offers the tools {list(tools)}, want {tool} among them")
    seen = any(is_picture(part) for answer in answers for part in parts(answer))
    said = f"The correlation is {known['correlation']}. I {'saw' if seen else 'was not shown'} the plot."
    return ("final_answer", {"answer": said}) if "final_answer" in tools else ("", said)  # smolagents ends a run with a call of this tool


def parts(content) -> list[dict]:
    return content if isinstance(content, list) else [{"text": content}]


def words(content) -> str:
    return "\n".join(p.get("text") or "" for p in parts(content))


def is_picture(part: dict) -> bool:
    return part.get("type") in ("input_image", "image_url") or "inlineData" in part


def responses(body: dict) -> dict:
    """OpenAI: POST /v1/responses"""
    tools = {t["name"]: t["parameters"] for t in body.get("tools", []) if t["type"] == "function"}
    items = body["input"] if isinstance(body["input"], list) else []  # input is a string if there is only the user's first message
    answers = [item["output"] for item in items if item.get("type") == "function_call_output"]
    tool, said = play(tools, answers)
    n = len(answers)
    item = {"id": f"msg_{n}", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said, "annotations": []}]}
    if tool:
        item = {"id": f"fc_{n}", "type": "function_call", "call_id": f"call_{n}", "name": tool, "arguments": json.dumps(said)}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    reply = {"id": f"resp_{n}", "object": "response", "created_at": 0, "status": "completed", "model": body["model"], "usage": usage}
    return reply | {"output": [item | {"status": "completed"}], "tools": [], "tool_choice": "auto", "parallel_tool_calls": False}


def completions(body: dict) -> dict:
    """OpenAI: POST /v1/chat/completions"""
    tools = {t["function"]["name"]: t["function"]["parameters"] for t in body.get("tools", [])}
    # smolagents sends a tool's answer to the model in a message with the role "user".
    answers = [m["content"] for m in body["messages"] if m["role"] == "tool" or words(m["content"]).startswith("Observation:")]
    if any(is_picture(part) for answer in answers for part in parts(answer)):
        raise Refused("Image URLs are only allowed for messages with role 'user'")  # OpenAI's error text
    tool, said = play(tools, answers)
    message = {"role": "assistant", "content": said}
    if tool:
        call = {"id": f"call_{len(answers)}", "type": "function", "function": {"name": tool, "arguments": json.dumps(said)}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if tool else "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "chat", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage}


def gemini(body: dict) -> dict:
    """Gemini: POST /v1beta/models/…:generateContent"""
    declared = [f for t in body["tools"] for f in t["functionDeclarations"]]
    tools = {f["name"]: next((f[k] for k in f if k.startswith("parameters")), {}) for f in declared}
    given = [p["functionResponse"] for c in body["contents"] for p in c["parts"] if "functionResponse" in p]
    tool, said = play(tools, [[{"text": json.dumps(g["response"])}, *g.get("parts", [])] for g in given])
    part = {"functionCall": {"name": tool, "args": said}} if tool else {"text": said}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        api = next((api for end, api in APIS.items() if self.path.partition("?")[0].endswith(end)), None)
        if "--show" in sys.argv:
            given = body.get("messages") or body.get("input") or body.get("contents")
            last = given[-1] if isinstance(given, list) else given
            print("the model gets:", re.sub(r"[\w+/=-]{100,}", "<base64>", json.dumps(last)), file=sys.stderr, flush=True)
        try:
            if api is None or body.get("stream"):
                raise Refused(f"the scripted model does not implement {self.path}" + ", streaming" * bool(body.get("stream")))
            status, reply = 200, api(body)
        except Refused as why:
            status, reply = 400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": f"scripted model: {why}"}}
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


APIS = {"/responses": responses, "/chat/completions": completions, ":generateContent": gemini}
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
server.serve_forever()
