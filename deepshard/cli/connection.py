"""Finding a node and asking it: address and token from its home folder, or given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepshard.errors import LocalError, UsageError

if TYPE_CHECKING:
    import httpx  # imported where it is used: it takes longer than `--help` may

HOME_VARIABLE: Final = "DEEPSHARD_HOME"
TOKEN_VARIABLE: Final = "DEEPSHARD_TOKEN"  # noqa: S105  # the name of a variable, not a secret
HOME_DEFAULT: Final = "~/.deepshard"
CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 300.0
"""A request that waits for its block or for a model takes its time."""


def home_folder(home: Path | None) -> Path:
    """The node's home folder: as given, else DEEPSHARD_HOME, else `~/.deepshard`."""
    return (home or Path(os.environ.get(HOME_VARIABLE) or HOME_DEFAULT)).expanduser()


@dataclass(frozen=True)
class Node:
    """A node's API."""

    url: str
    token: str

    @classmethod
    def find(cls, home: Path | None, url: str | None) -> Node:
        """The node at `url` (with DEEPSHARD_TOKEN), else the one that runs in `home`.

        Raises:
            UsageError: no token for the URL, or no node runs in the home folder.
        """
        if url is not None:
            token = os.environ.get(TOKEN_VARIABLE, "")
            if not token:
                raise UsageError(f"--node needs the node's token in {TOKEN_VARIABLE}")
            return cls(url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}", token)
        path = home_folder(home) / "api.json"
        try:
            access = json.loads(path.read_text(encoding="utf-8"))
            return cls(f"http://{access['http']}", str(access["token"]))
        except FileNotFoundError:
            raise UsageError(
                f"no node is running in {path.parent}: start one with `python -m deepshard.node --home {path.parent}`, "
                "or say where it is with --home or --node"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path} is damaged: restart the node, which writes it") from None

    def get(self, path: str) -> Any:  # noqa: ANN401  # JSON
        """Answer to a GET of `path`."""
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401  # JSON
        """Answer to a POST of `body` to `path`."""
        return self._ask("POST", path, body)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        """Data of the server-sent events that answer a POST.

        Raises:
            LocalError: the stream broke, or its end never came.
        """
        import httpx  # noqa: PLC0415

        try:
            with self._client() as client, client.stream("POST", path, json=body) as response:
                if response.is_error:
                    response.read()
                    raise self._refusal(response)
                for line in response.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    if data:
                        event = json.loads(data)
                        if "error" in event:
                            raise LocalError(str(event["error"]["message"]))
                        yield event
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        except (ValueError, KeyError, TypeError):
            raise LocalError(f"{self.url} sent an answer that isn't the API's") from None
        raise LocalError(f"the answer of {self.url} broke off")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:  # noqa: ANN401  # JSON
        import httpx  # noqa: PLC0415

        try:
            with self._client() as client:
                response = client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise self._refusal(response)
        try:
            return response.json()
        except ValueError:
            raise LocalError(f"{self.url} answers, but is no deepshard node") from None

    def _client(self) -> httpx.Client:
        import httpx  # noqa: PLC0415

        try:
            return httpx.Client(
                base_url=self.url,
                headers={b"Authorization": f"Bearer {self.token}".encode()},
                timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                trust_env=False,  # a node on this machine is not behind a proxy
            )
        except httpx.InvalidURL as error:
            raise UsageError(f"{self.url} is not a node's URL: {error}") from None

    def _unreachable(self, error: Exception) -> UsageError | LocalError:
        import httpx  # noqa: PLC0415

        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return UsageError(f"no node answers at {self.url}: it is not running, or listens elsewhere")
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return UsageError(f"{self.url} is not a node's URL: give http://HOST:PORT")
        return LocalError(f"{self.url} did not answer: {str(error) or type(error).__name__}")

    def _refusal(self, response: httpx.Response) -> UsageError | LocalError:
        """The node's error with its blame: 4xx is the person's, 5xx the node's."""
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"{self.url} answered {response.status_code}; is it a deepshard node?"
        return UsageError(message) if response.is_client_error else LocalError(message)
