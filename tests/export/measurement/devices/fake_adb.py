"""A stand-in for the client adb, which the tests put on the PATH. Its phone is a folder on this machine.

Shell scripts run in a shell of this machine with /data/local/tmp in that folder, so that the scripts themselves are tested. The
messages are those of the real client, version 29.0.6. The environment variable FAKE_ADB chooses what goes wrong.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PHONE = Path(os.environ["FAKE_PHONE"])
TROUBLE = os.environ.get("FAKE_ADB", "")
NO_PHONE = "error: no devices/emulators found"
SHELL = shutil.which("mksh") or "sh"  # Android's shell is mksh. Debian has it as a package.
# What each command says if no phone is ready.
REFUSALS = {
    "no phone": NO_PHONE,
    "several": "error: more than one device/emulator",
    "unauthorized": "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\nTry 'adb kill-server' if that "
    "seems wrong.\nOtherwise check for a confirmation dialog on your device.",
    "offline": "error: device offline",
    "no permissions": "error: insufficient permissions for device: user in plugdev group; are your udev rules wrong?",
}
PHONES = {"several": ["PHONE1", "PHONE2"], "no phone": []}.get(TROUBLE, ["PHONE1"])


def here(text: str) -> str:
    """Return a path or a script of the phone with this machine's paths."""
    return text.replace("/data/local/tmp", f"{PHONE}/data/local/tmp")


def fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(1)


def shell(script: str) -> int:
    """Run a script of the phone, print its output with the phone's paths, and return its exit code."""
    environment = {**os.environ, "PATH": f"{PHONE}/system/bin:{os.environ['PATH']}"}
    process = subprocess.Popen([SHELL, "-c", here(script)], stdout=subprocess.PIPE, env=environment, text=True)
    # After this many lines the connection ends. The client then ends without a word, and the phone ends the script.
    left = int(os.environ["FAKE_LINES"]) if TROUBLE == "unplugged" and "--graph" in script else -1
    for line in process.stdout:
        print(line.replace(str(PHONE), ""), end="", flush=True)
        left -= 1
        if left == 0:
            process.terminate()
            (PHONE / "unplugged").touch()
            break
    return process.wait()


def main(arguments: list[str]) -> None:
    serial = ""
    if arguments[0] == "-s":
        serial, arguments = arguments[1], arguments[2:]
    command, *arguments = arguments
    if command == "devices":
        print("List of devices attached\n" + "".join(f"{phone}\tdevice\n" for phone in PHONES))
        return
    if (PHONE / "unplugged").exists():
        fail(NO_PHONE)
    if serial and serial not in PHONES:
        fail(f"error: device '{serial}' not found")
    if TROUBLE in REFUSALS and not serial:
        fail(REFUSALS[TROUBLE])
    if command == "push":
        if TROUBLE == "full":
            reason = "remote couldn't create file: No space left on device"
            fail(f"adb: error: failed to copy '{arguments[0]}' to '{arguments[1]}': {reason}")
        shutil.copyfile(arguments[0], here(arguments[1]))
    elif command == "pull":
        shutil.copyfile(here(arguments[0]), arguments[1])
    elif command == "shell":
        sys.exit(shell(arguments[0]))
    elif command == "get-state":
        print("device")


main(sys.argv[1:])
