"""The API on a real socket, for clients that are programs of their own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.api.app import create_app
from service.settings import Settings
from tests.support.waiting import wait_until


class ClosingServer(uvicorn.Server):
    """A server that ends with its connections.

    uvicorn leaves those open that outlast its graceful shutdown, which a later test would be blamed for.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down, and abort the connections that are left."""
        await super().shutdown(sockets)
        while connections := list(self.server_state.connections):
            for connection in connections:
                connection.transport.abort()
            await asyncio.sleep(0)  # the event loop then tells the connection that it is lost


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of a server that runs in a thread while the block does."""
    config = uvicorn.Config(create_app(settings), port=0, log_config=None, timeout_graceful_shutdown=1)
    server = ClosingServer(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
