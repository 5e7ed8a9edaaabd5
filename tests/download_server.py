"""A web server that misbehaves in every way that the web does: GET /<kind>/<photo id>.

The kinds are the methods of Site. Imports no part of the project.
"""

import asyncio
import contextlib
import io
import multiprocessing
import threading
from collections import Counter

from PIL import Image

STAND_IN = "/pw/images/en-us/photo_unavailable.png"
RECOVER = (
    "good",
    "slow",
    "cut_once",
    "limited",
    "error_once",
    "moved",
    "reset_once",
    "html_once",
    "chunked",
)
NEVER = {  # kind: the reason that is reported
    "missing": "HTTP 404",
    "removed": "HTTP 410",
    "unavailable": "photo unavailable",
    "placeholder": "placeholder",
    "truncated": "broken where it comes from",
    "short_length": "broken where it comes from",
}
NOT_NOW = {
    "forbidden": "HTTP 403",
    "legal": "HTTP 451",
    "busy": "HTTP 503",
    "loop": "redirected without end",
    "html": "not a photo",
    "empty": "empty answer",
    "cut": "cut short",
    "long_length": "too slow",
    "dripping": "too slow",
    "silent": "too slow",
    "reset": "connection lost",
    "teapot": "HTTP 418",
    "astray": "connection lost",
    "endless": "larger than 1 MB (--max_megabytes)",
    "huge": "larger than 1 MB (--max_megabytes)",
}


def picture(width, height, seed=1, format="JPEG"):
    noise = Image.effect_noise((width // 4, height // 4), 80 + seed).resize((width, height))
    file = io.BytesIO()
    noise.convert("RGB").save(file, format, quality=95)
    return file.getvalue()


class Site:
    """requests: how many of each path there were; most: connections at once; agents: the
    User-Agents that were seen."""

    def __init__(self, base, drip=0.02):
        """base: a JPEG, which each photo is, with its id in a comment. drip: seconds between two
        dripping bytes."""
        self.base, self.drip, self.requests, self.agents, self.open, self.most = (
            base,
            drip,
            Counter(),
            set(),
            0,
            0,
        )

    def photo(self, photo_id):
        comment = photo_id.encode()
        return (
            self.base[:2]
            + b"\xff\xfe"
            + (len(comment) + 2).to_bytes(2, "big")
            + comment
            + self.base[2:]
        )

    async def serve(self, reader, writer):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                # as a proxy is asked
                path = "/" + path.split("/", 3)[3] if path.startswith("http://") else path
                self.agents |= {
                    line
                    for line in head.decode().splitlines()
                    if line.lower().startswith("user-agent:")
                }
                self.requests[path] += 1
                if await self.answer(path, writer) == "close":
                    break
                await writer.drain()
        except (
            asyncio.IncompleteReadError,
            ConnectionError,
            asyncio.CancelledError,
        ):  # cancelled: the server ends
            pass
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, path, writer):
        _, kind, photo_id = path.split("/", 2)
        if path == STAND_IN:
            return self.send(writer, picture(40, 40))
        if kind == "requests":
            return self.send(writer, repr(dict(self.requests)).encode())
        return await getattr(self, kind)(photo_id, writer, self.requests[path] == 1)

    def send(self, writer, body, status="200 OK", length=None, *headers):
        lines = (
            f"HTTP/1.1 {status}",
            f"Content-Length: {len(body) if length is None else length}",
            *headers,
        )
        writer.write("\r\n".join((*lines, "", "")).encode() + body)

    def refuse(self, writer, status, *headers):
        self.send(writer, b"<html>no</html>", status, None, "Content-Type: text/html", *headers)

    # what is a photo, at least the second time

    async def good(self, photo_id, writer, first):
        self.send(writer, self.photo(photo_id))

    async def png(self, photo_id, writer, first):  # whatever its name says
        self.send(writer, picture(30, 20, int(photo_id), "PNG"))

    async def gif(self, photo_id, writer, first):
        self.send(writer, picture(30, 20, int(photo_id), "GIF"))

    async def webp(self, photo_id, writer, first):
        self.send(writer, picture(30, 20, int(photo_id), "WEBP"))

    async def slow(self, photo_id, writer, first):
        await asyncio.sleep(0.1)
        self.send(writer, self.photo(photo_id))

    async def chunked(self, photo_id, writer, first):
        body = self.photo(photo_id)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (body[:999], body[999:]):
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        writer.write(b"0\r\n\r\n")

    async def cut_once(self, photo_id, writer, first):
        return await (self.cut if first else self.good)(photo_id, writer, first)

    async def limited(self, photo_id, writer, first):
        if not first:
            return self.send(writer, self.photo(photo_id))
        self.refuse(
            writer,
            "429 Too Many Requests",
            "Retry-After: 3600" if photo_id[-1] == "0" else "Retry-After: 0",
        )

    async def error_once(self, photo_id, writer, first):
        self.refuse(writer, "500 Oops") if first else self.send(writer, self.photo(photo_id))

    async def html_once(self, photo_id, writer, first):
        return await (self.html if first else self.good)(photo_id, writer, first)

    async def reset_once(self, photo_id, writer, first):
        return await (self.reset if first else self.good)(photo_id, writer, first)

    async def moved(self, photo_id, writer, first):
        self.refuse(writer, "302 Found", f"Location: /moved_again/{photo_id}")

    async def moved_again(self, photo_id, writer, first):
        self.refuse(writer, "301 Moved", f"Location: ../good/{photo_id}")

    # what is gone

    async def missing(self, photo_id, writer, first):
        self.refuse(writer, "404 Not Found")

    async def removed(self, photo_id, writer, first):
        self.refuse(writer, "410 Gone")

    async def forbidden(self, photo_id, writer, first):
        self.refuse(writer, "403 Forbidden")

    async def legal(self, photo_id, writer, first):
        self.refuse(writer, "451 Unavailable")

    async def unavailable(self, photo_id, writer, first):
        self.refuse(writer, "302 Found", f"Location: {STAND_IN}")

    async def placeholder(self, photo_id, writer, first):
        self.send(writer, self.base)

    async def truncated(self, photo_id, writer, first):
        self.send(writer, self.photo(photo_id)[: -len(self.base) // 3])

    async def short_length(self, photo_id, writer, first):
        body = self.photo(photo_id)
        self.send(writer, body, length=len(body) // 2)

    # what may be there another time

    async def busy(self, photo_id, writer, first):
        self.refuse(writer, "503 Service Unavailable")

    async def teapot(self, photo_id, writer, first):
        self.refuse(writer, "418 I'm a teapot")

    async def limited_for_ever(self, photo_id, writer, first):
        self.refuse(writer, "429 Too Many Requests", "Retry-After: soon")

    async def loop(self, photo_id, writer, first):
        self.refuse(writer, "302 Found", f"Location: /loop/{photo_id}")

    async def astray(self, photo_id, writer, first):
        self.refuse(writer, "302 Found", "Location: file:///etc/passwd")

    async def html(self, photo_id, writer, first):
        self.send(writer, b"<html>Please log in.</html>", "200 OK", None, "Content-Type: text/html")

    async def empty(self, photo_id, writer, first):
        self.send(writer, b"")

    async def cut(self, photo_id, writer, first):
        body = self.photo(photo_id)
        self.send(writer, body[: len(body) // 2], length=len(body))
        return "close"

    async def long_length(self, photo_id, writer, first):  # and then waits
        body = self.photo(photo_id)
        self.send(writer, body, length=len(body) + 1000)
        await asyncio.sleep(5)
        return "close"

    async def dripping(self, photo_id, writer, first):
        body = self.photo(photo_id)
        self.send(writer, b"", length=len(body))
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(self.drip)

    async def silent(self, photo_id, writer, first):
        await asyncio.sleep(5)
        return "close"

    async def reset(self, photo_id, writer, first):
        writer.transport.abort()
        return "close"

    async def endless(self, photo_id, writer, first):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + self.base)
        for _ in range(1000):
            writer.write(bytes(100_000))
            await writer.drain()
        return "close"

    async def huge(self, photo_id, writer, first):
        self.send(writer, self.base, length=10**9)
        return "close"


async def listen(site, ready, ended, context=None):
    """Serve `site` on 127.0.0.1 until `ended` is set; ready(port)."""
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0, backlog=500, ssl=context)
    ready(server.sockets[0].getsockname()[1])
    await ended.wait()
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def in_thread(site, context=None):
    """Serve `site` from a thread of this process, over TLS where there is a context; gives its
    address."""
    loop, ended, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    ports = []

    def ready(port):
        ports.append(port)
        started.set()

    thread = threading.Thread(
        target=loop.run_until_complete, args=(listen(site, ready, ended, context),), daemon=True
    )
    thread.start()
    started.wait(10)
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


def serve_process(base, ports):
    asyncio.run(listen(Site(base), ports.put, asyncio.Event()))


@contextlib.contextmanager
def in_process(base):
    """Serve Site(base) from a process of its own; gives its address."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=serve_process, args=(base, ports), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=20)}"
    finally:
        process.terminate()
        process.join(10)
