"""A private registry for tests: Debian's docker-registry on loopback, with TLS and a password.

    with Registry(tmp_path) as registry:
        registry.push(engine, "localhost/trainkit-small:1", "lab/pets:1")
        registry.stop()  # and registry.start(), registry.hold(), registry.release()

The user's name is `registry.username`, the password `registry.password`. Its certificate is signed by an authority of
its own, which `trusted_by` makes known to podman in a home's certs.d. Docker needs none: it takes any certificate of a
registry on loopback. `serve` puts an image there under a name at once, without an engine: that is also how a tag
moves. `missing()` says what is not here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from scripts.image_files import Storage
from tests.engines.container_keeper import free_port, listens
from tests.engines.containers import Engine, images

PROGRAMS = ("docker-registry", "htpasswd", "openssl", "setpriv")
START_SECONDS = 20.0
_SETTINGS = """
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {folder}/images}}
http:
  addr: "{address}"
  secret: tests
  tls: {{certificate: {folder}/server.crt, key: {folder}/server.key}}
auth:
  htpasswd: {{realm: tests, path: {folder}/passwords}}
"""


def missing() -> str:
    """Why there can be no private registry here; "" where there can be."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"a registry needs {', '.join(absent)}; scripts/containers installs them" if absent else ""


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


class Registry:
    """A registry that serves images to one user who has a password; runs while the context is open."""

    username = "somebody"

    def __init__(self, folder: Path, password: str) -> None:
        """Make its certificate and its list of passwords in `folder`, which has to be there."""
        self.folder, self.password = folder, password
        self.address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "images").mkdir()
        key, ca, request, names = (str(folder / name) for name in ("server.key", "ca.crt", "server.csr", "names"))
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subject = ["-subj", "/CN=tests of trainkit"]
        _openssl("req", "-x509", *ec, "-keyout", str(folder / "ca.key"), "-out", ca, "-days", "2", *subject)
        _openssl("req", *ec, "-keyout", key, "-out", request, *subject)
        Path(names).write_text("subjectAltName=IP:127.0.0.1\n")
        signing = ["-CA", ca, "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "2", "-extfile", names]
        _openssl("x509", "-req", "-in", request, *signing, "-out", str(folder / "server.crt"))
        made = subprocess.run(
            ["htpasswd", "-niBC", "4", self.username], input=password, capture_output=True, text=True, check=True
        )
        (folder / "passwords").write_text(made.stdout)
        (folder / "settings.yml").write_text(_SETTINGS.format(folder=folder, address=self.address))

    def __enter__(self) -> Registry:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to serve; returns when it answers."""
        # It takes its settings from such variables, too; REGISTRY_AUTH_FILE, however, is podman's.
        variables = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(self.folder / "settings.yml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not listens(self.address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"docker-registry did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Be gone: connections are refused. A second call does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hold(self) -> None:
        """Answer nobody, so that whoever asks waits, until `release`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        """Go on answering."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def name(self, image: str) -> str:
        """An image's name with this registry's address."""
        return f"{self.address}/{image}"

    def serve(self, image: str, edition: str = "") -> str:
        """Have a small image with Python under this name, without a push; the digest that a pull of it tells.

        Each edition is another image, in whose containers the variable EDITION says which.
        """
        root = Storage(images() / "registry").layer("library/python:3.11-slim")
        return Storage(self.folder / "images").add(root, image, [f"EDITION={edition}"])

    def trusted_by(self, home: Path) -> None:
        """Make the authority known to podman, for a user with this home."""
        folder = home / ".config/containers/certs.d" / self.address
        folder.mkdir(parents=True)
        shutil.copy(self.folder / "ca.crt", folder / "ca.crt")

    def push(self, engine: Engine, image: str, name: str) -> str:
        """Push a local image by the engine's own client, which knows the password for that long; returns its name."""
        there = self.name(name)
        engine.run("tag", image, there)
        config = self.folder / f"login-{engine.program}"
        options, file = (
            (["--config", str(config)], []) if engine.program == "docker" else ([], ["--authfile", str(config)])
        )
        login = ["login", *file, "--username", self.username, "--password-stdin", self.address]
        engine.run(*options, *login, stdin=self.password)
        engine.run(*options, "push", *file, "--quiet", there)
        shutil.rmtree(config) if config.is_dir() else config.unlink()
        return there
