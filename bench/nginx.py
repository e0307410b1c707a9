"""nginx as a bare reverse proxy: what the kernel and a relay in C take for the same bytes.

It relays unbuffered, keeps connections to the provider, and swaps the caller's key by one look-up, so that the provider
sees what it sees from a gateway. No metering, no fact, no other authentication.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.servers import Child, StartError
from bench.targets import Target

CALLER_KEY: Final = "sk-test"
PROVIDER_KEY: Final = "sk-upstream"
_SYSTEM_PATHS: Final = "/usr/sbin:/usr/local/sbin"
"""Where distributions put it, and where the search path of a user may not look."""
_STARTED: Final = re.compile(r"start worker process \d+")

_CONFIGURATION: Final = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr notice;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    keepalive_timeout 3600s;
    keepalive_requests 100000000;
    tcp_nodelay on;
    gzip off;
    map $http_authorization $provider_key {{
        default "";
        "Bearer {caller_key}" "Bearer {provider_key}";
    }}
    upstream provider {{
        server 127.0.0.1:{provider_port};
        keepalive 1024;
        keepalive_requests 100000000;
        keepalive_timeout 3600s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /openai/ {{
            if ($provider_key = "") {{ return 401; }}
            proxy_pass {scheme}://provider/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization $provider_key;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 300s;
            {tls}
        }}
    }}
}}
"""
_TLS: Final = """\
proxy_ssl_trusted_certificate {ca_file};
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;"""


def find_nginx() -> str:
    """Its program. Raises StartError where it is not installed."""
    program = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), _SYSTEM_PATHS)))
    if program is None:
        raise StartError("nginx is not installed (on Debian: apt install nginx-light); leave out --nginx")
    return program


def configuration(directory: Path, port: int, authority: str, ca_file: Path | None) -> str:
    """``authority``: the URL of the provider, which must be https where there is a ``ca_file``."""
    parts = urlsplit(authority)
    return _CONFIGURATION.format(
        directory=directory,
        port=port,
        caller_key=CALLER_KEY,
        provider_key=PROVIDER_KEY,
        provider_port=parts.port,
        scheme=parts.scheme,
        tls=_TLS.format(ca_file=ca_file) if ca_file is not None else "",
    )


class NginxProcess:
    """One worker in front of one provider, by plain HTTP on both sides or with TLS to the provider."""

    def __init__(self, core: int | None, authority: str, *, ca_file: Path | None = None) -> None:
        """Raises StartError."""
        self._core = core
        self._program = find_nginx()
        self._directory = tempfile.TemporaryDirectory(prefix="aigw-bench-")
        path = Path(self._directory.name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._file = path / "nginx.conf"
        self._file.write_text(configuration(path, self.port, authority, ca_file))
        self._pid_file = path / "pid"
        self._start()

    def _start(self) -> None:
        directory = Path(self._directory.name)
        command = [self._program, "-e", "stderr", "-p", str(directory), "-c", str(self._file)]
        log = directory / "nginx.log"
        with (directory / "nginx.out").open("wb") as out:
            self._child = Child(self._core, command, out, log)
        self._child.wait_for(log, _STARTED)
        self._pid_file.write_text(str(self._child.pid))

    def target(self, name: str) -> Target:
        """For callers with the one key that it knows."""
        return Target(
            name,
            f"http://127.0.0.1:{self.port}/openai",
            (("Authorization", f"Bearer {CALLER_KEY}"),),
            pid=f"@{self._pid_file}",
            restart=self.restart,
        )

    def restart(self) -> None:
        """A fresh process on the same port."""
        self._child.stop()
        self._start()

    def stop(self) -> None:
        self._child.stop()
        self._directory.cleanup()
