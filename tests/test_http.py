"""The running app over raw HTTP, as somebody meets it who wants what is not theirs."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import gradio as gr
import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from serving import eventually
from test_files import P3, gamma, matrix_profile

from sisrm.errors import ParameterError
from sisrm.ui.guard import MAX_BODY_BYTES, MAX_UPLOAD_BYTES, MAX_UPLOADS, blocked_paths, check_inputs
from sisrm.ui.serving import PROJECT

API = "/gradio_api"
SECRET = "GPS 48.2082 N"
FILE = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def listener():
    """A server on the loopback address that writes down who asks it for something."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def photo_bytes(tmp_path: Path) -> bytes:
    text = PngInfo()
    text.add_text("Comment", SECRET)
    exif = Image.Exif()
    exif[0x010E] = SECRET
    exif.get_ifd(0x8825)[29] = SECRET
    profile = matrix_profile(SECRET.encode(), P3, gamma(2.2))
    image = Image.linear_gradient("L").resize((24, 20)).convert("RGBA")
    image.putalpha(Image.radial_gradient("L").resize((24, 20)))
    image.save(tmp_path / "in.png", pnginfo=text, exif=exif, icc_profile=profile)
    with Image.open(tmp_path / "in.png") as sent:
        assert {"Comment", "exif", "icc_profile"} <= set(sent.info)
    return (tmp_path / "in.png").read_bytes()


def upload(web, content: bytes, name: str = "photo.png") -> str:
    answer = web.post(f"{API}/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def call(web, data: str, fn: str = "upscale") -> str:
    """Call an endpoint with `data` as it is; the event stream's text, or the refusal's."""
    answer = web.post(f"{API}/call/{fn}", content=f'{{"data": {data}}}', headers={"Content-Type": "application/json"})
    if answer.status_code != 200:
        return answer.text
    return web.get(f"{API}/call/{fn}/{answer.json()['event_id']}").text


def press(app, web, image: object, **changes) -> str:
    """What the page's button does, with other values; the event stream's text up to the end of the job."""
    index, button = next((index, fn) for index, fn in app.fns.items() if fn.name == "enlarge")
    changes = {"photo": image, "steps": 1, "seed": 1} | changes
    names = {component.elem_id for component in button.inputs}
    assert changes.keys() <= names
    data = [changes.get(component.elem_id, component.value) for component in button.inputs]
    body = {"data": data, "fn_index": index, "session_hash": os.urandom(8).hex()}
    joined = web.post(f"{API}/queue/join", content=json.dumps(body), headers={"Content-Type": "application/json"})
    if joined.status_code != 200:
        return joined.text
    text = ""
    with web.stream("GET", f"{API}/queue/data", params={"session_hash": body["session_hash"]}) as stream:
        for line in stream.iter_lines():
            text += line + "\n"
            if "process_completed" in line or "close_stream" in line:
                return text
    return text


def harmless(text: str) -> str:
    """No stack trace and no path of the server in an answer."""
    assert "Traceback" not in text and 'File "' not in text and ".py" not in text
    assert str(PROJECT) not in text and "site-packages" not in text and "/etc/passwd" not in text
    return text


@pytest.fixture(scope="module")
def done(web, tmp_path_factory):
    """An upload and its result: (path of the upload, path of the result, bytes of the result, report)."""
    path = upload(web, photo_bytes(tmp_path_factory.mktemp("mine")))
    file = json.dumps({"path": path, "meta": FILE, "orig_name": "photo.png"})
    text = call(web, f"[{file}, 1, 1, 2, true, 1]")
    assert text.startswith("event: complete"), text
    result, report = json.loads(text.split("data: ", 1)[1])
    return path, result["path"], web.get(f"{API}/file={result['path']}").content, report


def test_a_result_keeps_transparency_and_no_metadata(done, tmp_path):
    _, _, content, report = done
    (tmp_path / "result.png").write_bytes(content)
    with Image.open(tmp_path / "result.png") as image:
        assert image.mode == "RGBA" and image.size == (96, 80) and set(image.info) == {"sisrm", "srgb"}
        assert image.getchannel("A").getextrema()[0] < 60
    assert SECRET.encode() not in content and SECRET not in json.dumps(report)


def test_names_of_results_cannot_be_guessed(done, web, upload_folder):
    _, result, _, _ = done
    parts = Path(result).relative_to(upload_folder).parts
    assert re.fullmatch(r"[0-9a-f]{64}", parts[0])
    upload_name, again = (done[0], upload(web, b"x"))
    assert Path(upload_name).parent != Path(again).parent
    for guess in (upload_folder, upload_folder / "photo-4x.png", Path(result).parent, Path(result).parent.parent):
        assert web.get(f"{API}/file={guess}").status_code in (403, 404)
    try:
        assert "event: complete" not in harmless(web.get(f"{API}/call/upscale/{'0' * 32}").text)
    except httpx.RemoteProtocolError:
        pass  # no job of this name: Gradio closes the connection


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "//etc/passwd", "/proc/self/environ", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd",
        "file:///etc/passwd", "app.py", "assets/compact/model_index.json", f"{PROJECT}/app.py", f"{PROJECT}/README.md",
        f"{PROJECT}/assets/compact/README.md", f"{Path(gr.__file__).parent}/blocks.py", "/dev/zero", "\\\\host\\share", "C:\\boot.ini",
        "http://169.254.169.254/latest/meta-data/", "HTTPS://example.org/", "http:/127.0.0.1/", "ftp://127.0.0.1/a", "data:text/plain,a",
    ],
)  # fmt: skip
def test_no_file_is_served_that_is_no_upload_or_result(web, upload_folder, path):
    for prefix in (f"{API}/file=", f"{API}/file/", "/file=", f"{API}/file={upload_folder}/../"):
        answer = web.get(prefix + path)
        assert answer.status_code in (400, 403, 404), (prefix, answer.text[:200])
        assert "Traceback" not in answer.text and "root:" not in answer.text


def test_no_address_is_fetched_for_a_caller(web, app, listener):
    address, asked = listener
    files = [{"path": f"{address}/a.png", "meta": FILE}, {"path": "http://169.254.169.254/a.png", "url": f"{address}/b", "meta": FILE},
             {"path": f"{address}/c.png", "url": f"{address}/c.png", "is_stream": True, "meta": FILE}]  # fmt: skip
    for file in files:
        written = json.dumps(file)
        for data in (
            f"[{written}, 1, 1, 2, true, 1]",
            f"[null, {written}, 1, 2, true, 1]",
            f"[null, [[{written}]], 1, 2, true, 1]",
        ):
            text = harmless(call(web, data))
            assert text.startswith("event: error") and "accepted: an uploaded image file" in text
        assert "accepted: an uploaded image file" in harmless(press(app, web, file))
    for path in (f"{API}/proxy={address}/a", f"{API}/file={address}/a", f"/proxy={address}/a"):
        assert web.get(path).status_code in (403, 404)
    assert asked == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/monitoring"), ("GET", "/monitoring/summary"), ("GET", "/monitoring/key"), ("GET", f"{API}/monitoring"),
        ("POST", f"{API}/process_recording"), ("POST", f"{API}/component_server"), ("GET", f"{API}/deep_link?session_hash=a"),
        ("POST", f"{API}/vibe-edit/"), ("GET", f"{API}/vibe-code"), ("GET", f"{API}/runs"), ("GET", f"{API}/profiling/traces"),
        ("POST", f"{API}/stream/a"), ("GET", f"{API}/dev/reload"), ("POST", f"{API}/api/upscale"), ("GET", f"{API}"), ("GET", f"{API}/x"),
        ("POST", "/login"), ("GET", f"{API}/custom_component/a/client/component/b"),
    ],
)  # fmt: skip
def test_what_the_app_does_not_need_is_closed(web, method, path):
    answer = web.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code in (403, 404, 405), answer.text[:200]
    harmless(answer.text)


def test_the_model_cannot_be_called_around_the_queue(web, app):
    assert web.post(f"{API}/run/upscale", json={"data": [None, 1, 1, 2, True, 1]}).status_code == 404
    assert app.api_open is False and app.blocked_paths and not app.enable_monitoring


def test_another_origin_gets_no_answer_of_the_local_app(web):
    answer = web.get("/config", headers={"Origin": "https://evil.example", "Host": web.base_url.netloc.decode()})
    assert answer.headers.get("access-control-allow-origin") not in ("*", "https://evil.example")
    assert "null" != web.get("/config", headers={"Origin": "null"}).headers.get("access-control-allow-origin")


def stored(upload_folder: Path) -> set[Path]:
    return {path for path in upload_folder.rglob("*") if path.is_file()}


def test_uploads_are_capped_in_size_and_count(web, upload_folder):
    before = stored(upload_folder)
    large = bytes(MAX_UPLOAD_BYTES + 1)
    answer = web.post(f"{API}/upload", files={"files": ("a.png", large)})
    assert answer.status_code == 413 and "maximum allowed size" in harmless(answer.text)

    def pieces():  # without a length
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        for _ in range(MAX_UPLOAD_BYTES // 2**20 + 2):
            yield bytes(2**20)
        yield b"\r\n--b--\r\n"

    answer = web.post(f"{API}/upload", content=pieces(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    many = [("files", (f"{index}.png", b"x")) for index in range(MAX_UPLOADS + 1)]
    answer = web.post(f"{API}/upload", files=many)
    assert answer.status_code == 400 and "Too many files" in harmless(answer.text)
    assert web.post(f"{API}/upload", files=many[1:]).status_code == 200
    assert len(stored(upload_folder) - before) <= MAX_UPLOADS


@pytest.mark.parametrize("way", ["closes", "stalls"])
def test_an_upload_that_comes_to_no_end_leaves_nothing(web, upload_folder, monkeypatch, way):
    before = set(upload_folder.iterdir())
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 90000\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(30_000)
    if way == "stalls":
        monkeypatch.setattr("sisrm.ui.guard.STALL_SECONDS", 3)  # what has come must be seen before
    with socket.create_connection((web.base_url.host, web.base_url.port), 60) as client:
        client.sendall(head + part)
        eventually(lambda: set(upload_folder.iterdir()) - before)
        if way == "stalls":
            answer = b""
            while b"stalled" not in answer and (block := client.recv(10_000)):  # head and body may come apart
                answer += block
            assert answer.startswith(b"HTTP/1.1 400") and b"stalled" in answer
    eventually(lambda: set(upload_folder.iterdir()) == before)
    assert web.get("/config").status_code == 200


@pytest.mark.parametrize(
    "name", ["../../../../tmp/evil.png", "/etc/cron.d/evil", "..\\..\\evil.png", "a\0b.png", ".", "..", "", "x" * 5000]
)
def test_an_upload_is_stored_inside_the_upload_folder_alone(web, upload_folder, name):
    before = stored(upload_folder.parent)
    try:
        answer = web.post(f"{API}/upload", files={"files": (name, b"no picture")})
    except httpx.TransportError:  # a name too long for the file system: Gradio stumbles and closes the connection
        answer = web.get("/config")
        assert answer.status_code == 200
    else:
        harmless(answer.text)
    if answer.status_code == 200 and answer.request.method == "POST":
        assert Path(answer.json()[0]).resolve().is_relative_to(upload_folder.resolve())
    assert all(path.is_relative_to(upload_folder) for path in stored(upload_folder.parent) - before)


BAD = ["NaN", "Infinity", "-Infinity", "null", "true", '""', '"abc"', "[]", "{}", "-1", "1e999", "1e-300", '"' + "x" * 100_000 + '"',
       str(2**63), str(2**2000), '{"path": 3}', "[[1]]"]  # fmt: skip


@pytest.mark.parametrize("name", ["steps", "guidance_scale", "top_k", "mff", "seed"])
def test_every_bad_value_of_every_parameter_is_refused_by_name_and_range(web, name):
    accepted = {"steps": "a whole number from 1 to 20", "guidance_scale": "a number from 1 to 8", "top_k": "a whole number from 1 to 10",
                "mff": "true or false", "seed": "a whole number from 0 to 4294967295"}[name]  # fmt: skip
    fine = {"steps": "1", "guidance_scale": "1", "top_k": "2", "mff": "true", "seed": "1"}
    for value in BAD:
        if (name, value) in (("mff", "true"), ("seed", "null"), ("seed", str(2**31))):
            continue
        text = harmless(call(web, f"[null, {', '.join((fine | {name: value}).values())}]"))
        assert len(text) < 700
        if value == '{"path": 3}':
            assert "accepted: an uploaded image file" in text
        elif text.startswith("event: error"):
            assert f"{name} is " in text and f"accepted: {accepted}" in text, (value, text)
        else:  # the body itself was no JSON that the server takes
            assert "detail" in text and value in (str(2**2000), "1e999"), (value, text)


def test_segment_takes_good_values_of_top_k_alone(web, done):
    file = json.dumps({"path": done[0], "meta": FILE})
    for value in [*BAD, "0", "11", "2.5"]:
        text = harmless(call(web, f"[{file}, {value}]", "segment"))
        assert len(text) < 700
        if value == '{"path": 3}':
            assert "accepted: an uploaded image file" in text
        elif text.startswith("event: error"):
            assert "top_k is " in text and "accepted: a whole number from 1 to 10" in text, (value, text)
        else:
            assert "detail" in text and value in (str(2**2000), "1e999"), (value, text)
    assert call(web, f"[{file}, 10]", "segment").startswith("event: complete")


@pytest.mark.parametrize(
    "labels",
    ["sky", 5, {"a": 1}, ["no such thing"], ["sky"] * 11, [1], [None], [["sky"]],
     ["x" * 100_000], ["SKY\0"], [True], ["../../etc/passwd"]],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_bad_labels_of_the_page_are_refused(app, web, done, labels):
    text = press(app, web, {"path": done[0], "meta": FILE}, labels=labels)
    if labels != ["../../etc/passwd"]:
        harmless(text)
    assert '"success":false' in text.replace(" ", "") and "label" in text and "accepted" in text and len(text) < 4000


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "exe"},
        {"format": ["png"]},
        {"semantics": {"source": 3, "edits": []}},
        {"semantics": [["a"]]},
        {"preset": {"a": 1}},
    ],
    ids=lambda value: repr(value)[:30],
)
def test_other_nonsense_from_the_page_harms_nothing(app, web, done, changes):
    if "preset" in changes:
        index = next(index for index, fn in app.fns.items() if fn.name == "preset")
        body = {"data": [changes["preset"]], "fn_index": index, "session_hash": "preset"}
        web.post(f"{API}/queue/join", json=body)
        with web.stream("GET", f"{API}/queue/data", params={"session_hash": "preset"}) as stream:
            text = "".join(line for line in stream.iter_lines())
        assert "accepted: one of faithful, balanced, vivid" in harmless(text)
        return
    text = harmless(press(app, web, {"path": done[0], "meta": FILE}, **changes))
    assert ("accepted: one of png, webp, jpeg" in text) == ("format" in changes)


@pytest.mark.parametrize(
    "data", ["[]", "[null]", "[null, 1, 1, 2, true]", "[" + ", ".join(["1"] * 21) + "]", "[" + "1," * 5000 + "1]"]
)
def test_wrong_numbers_of_values_are_named(web, data):
    assert "accepted: a list of 6 to 20 values" in harmless(call(web, data))


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"data": 5}', b'{"data": "abc"}', b'{"data": null}', b"\xff\xfe", b'{"data": [' * 2000, b"[" * 200_000,
     b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}", b'{"data": [], "fn_index": 10000}', b'{"data": [], "session_hash": {"a": 1}}',
     b'{"data": [], "event_id": "../../x", "trigger_id": -1}', b'{"data":["' + b"\\u0000" * 5000 + b'"]}'],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["call/upscale", "call/v2/upscale", "queue/join", "run/upscale", "call/nothing", "cancel", "reset"]
)
def test_bodies_that_are_no_calls(web, path, body):
    try:
        answer = web.post(f"{API}/{path}", content=body, headers={"Content-Type": "application/json"})
    except httpx.TransportError:  # Gradio stumbled and closed the connection; the app goes on
        assert web.get("/config").status_code == 200
        return
    harmless(answer.text)
    assert len(answer.text) < 3 * len(body) + 2000
    if answer.status_code == 200 and path.startswith("call") and "event_id" in answer.text:
        harmless(web.get(f"{API}/{path}/{answer.json()['event_id']}").text)


def test_a_very_long_body_is_refused(web):
    answer = web.post(f"{API}/call/upscale", content=b'{"data": ["' + b"x" * MAX_BODY_BYTES + b'"]}')
    assert answer.status_code == 413 and "maximum allowed size" in answer.text

    def pieces():
        yield b'{"data": ["'
        for _ in range(20):
            yield b"x" * 2**17

    answer = web.post(f"{API}/call/upscale", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_the_check_of_values_and_the_blocked_folders(tmp_path):
    check_inputs([{"path": str(tmp_path / "a.png"), "meta": FILE}, 1], 2, tmp_path)
    for value in (
        {"path": "/etc/passwd"},
        {"meta": FILE},
        [[{"path": str(tmp_path / ".." / "a")}]],
        {"path": "x" * 10_000},
    ):
        with pytest.raises(ParameterError, match="image"):
            check_inputs([value], 1, tmp_path)
    deep: list = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(ParameterError, match="levels"):
        check_inputs([deep], 1, tmp_path)
    blocked = blocked_paths(PROJECT, Path("/var/folders/uploads"))
    assert str(PROJECT) in blocked and "/etc" in blocked and "/var" not in blocked


def test_folders_that_the_environment_blocks_are_blocked_too(monkeypatch):
    monkeypatch.setenv("GRADIO_BLOCKED_PATHS", "/srv/secret, /opt,,/var")
    blocked = blocked_paths(PROJECT, Path("/var/folders/uploads"))
    assert {"/srv/secret", "/opt", "/etc", str(PROJECT)} <= set(blocked) and "/var" not in blocked
