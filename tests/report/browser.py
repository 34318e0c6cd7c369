"""Headless Chromium by its command line: the page's DOM after its scripts ran, and every address it asked for."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--virtual-time-budget=8000",
)
TIMEOUT_S = 90


def chromium() -> str | None:
    """Its command, or None where there is no browser."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def _run(address: str, profile: Path, arguments: Sequence[str]) -> str:
    command = [chromium() or "", *FLAGS, f"--user-data-dir={profile}", *arguments, address]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True)
    return done.stdout.decode("utf-8", "replace")


def dump_dom(address: str, work_dir: Path, *arguments: str) -> tuple[str, list[str]]:
    """The DOM after load, and the addresses that the page asked for beyond files and data."""
    log = work_dir / "net.json"
    dom = _run(address, work_dir / "profile", [f"--log-net-log={log}", "--dump-dom", *arguments])
    return dom, requested(log)


def with_script(page: Path, script: str) -> Path:
    """A copy of a page that runs one more script at its end, which its policy allows by digest, as it does its own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = page.read_text(encoding="utf-8").replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    copy = page.with_name(f"with-script-{page.name}")
    copy.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return copy


def screenshot(address: str, work_dir: Path, width: int, height: int) -> Path:
    """A PNG of the window."""
    picture = work_dir / "page.png"
    _run(address, work_dir / "profile", [f"--window-size={width},{height}", f"--screenshot={picture}"])
    return picture


def requested(net_log: Path) -> list[str]:
    """Addresses that a page asked for, from Chromium's network log.

    The browser asks for some of its own (the time, lists of bad sites); those have no page as initiator.
    """
    text = net_log.read_text(errors="replace")
    try:
        events = json.loads(text)["events"]
    except ValueError:
        # A browser that is stopped leaves the list open.
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    started = [event["params"] for event in events if "initiator" in event.get("params", {})]
    asked = {str(params["url"]) for params in started if "url" in params and params["initiator"] != "not an origin"}
    return sorted(address for address in asked if not address.startswith(("file:", "data:", "blob:", "about:")))
