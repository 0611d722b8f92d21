"""The software that the device `arm64` needs, in a cache folder of the user: an emulator, and an Arm system to run in it."""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from . import cache_folders

SETUP = "keras-butterfly devices setup arm64"
SOURCE = Path(__file__).with_name("arm64_counter.c")
READY, PLUGIN = "ready.json", "counter.so"
# Debian's packages: of this machine's architecture, and of 64-bit Arm.
EMULATOR = ("qemu-user",)
SYSTEM = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
# What each tool is for, by its name.
TOOLS = {
    "apt-get": "which downloads packages, on Debian and Ubuntu",
    "dpkg-deb": "which unpacks packages, on Debian and Ubuntu",
    "cc": "a C compiler, which compiles the counting plugin. On Debian and Ubuntu: apt-get install gcc libc6-dev",
}
# Without these files ai-edge-litert ends with an error when it looks for the processor's features.
CPU_FILES = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid "
    "asimdrdm lrcpc dcpop asimddp ssbs\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n"
    "CPU revision\t: 1\n",
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
}
PORTS = "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://ports.ubuntu.com/ubuntu-ports {} main universe\n"


def cache_folder() -> Path:
    """Return the folder that the software is installed in, below ~/.cache or what XDG_CACHE_HOME names."""
    return cache_folders.cache_folder("arm64")


def installed() -> dict:
    """Return facts about the installed software: "qemu", "python" and "litert", which are versions.

    Raises:
        ValueError: if it is not installed, or was installed for other versions of this package or of ai-edge-litert.
    """
    folder = cache_folder()
    try:
        facts = json.loads((folder / READY).read_text())
    except (OSError, ValueError):
        raise ValueError(f"The device \"arm64\" is not set up in '{folder}'. Run `{SETUP}` first.") from None
    if facts.get("built from") != _fingerprint():
        raise ValueError(f"The device \"arm64\" was set up in '{folder}' for other versions. Run `{SETUP}` again.")
    return facts


def setup(on_step: Callable[[str], object]) -> Path:
    """Install the software, unless it is installed, and return its folder. All is installed, or nothing.

    No rights of root are needed, and nothing outside the folder is changed. apt checks the signatures of Debian's or Ubuntu's
    indices, and each package against the SHA-256 there. pip checks each wheel against the SHA-256 in the index of PyPI.

    Args:
        on_step: a function that is called with a sentence before each step.

    Raises:
        ValueError: if a tool is missing, or a step fails.
    """
    folder = cache_folder()
    try:
        installed()
    except ValueError:
        pass
    else:
        on_step(f"The device is set up in {folder} already.")
        return folder
    _check_tools()
    with cache_folders.replacing(folder) as new:
        _install(new, on_step)
    on_step("The counts of a loop with known instructions and reads were right. The device is ready.")
    return folder


def remove() -> Path | None:
    """Remove the software, and return the folder it was in. If there is none, return None."""
    return cache_folders.remove(cache_folder())


def command(folder: Path, core: str, plugin_output: str | None = None, variables: Mapping[str, str] | None = None) -> list[str]:
    """Return the start of a command that runs a program for 64-bit Arm.

    Args:
        folder: where the software is.
        core: the processor to emulate. QEMU's default has SVE, with which NumPy's matrix product is wrong.
        plugin_output: the file that the counting plugin writes, relative to the working directory. None: nothing is counted.
        variables: environment variables of the program.
    """
    options = [option for pair in (variables or {}).items() for option in ("-E", "=".join(pair))]
    plugin = [] if plugin_output is None else ["-plugin", f"{folder / PLUGIN},out={plugin_output}"]
    return [
        _emulator(folder),
        "-cpu",
        core,
        "-seed",
        "0",
        "-L",
        str(folder / "system"),
        "-U",
        "LD_LIBRARY_PATH",
        *options,
        *plugin,
    ]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment variables with which the emulator finds its libraries."""
    libraries = sorted({str(path.parent) for path in (folder / "emulator").rglob("*.so*")})
    return {"LD_LIBRARY_PATH": ":".join(libraries)}


def python(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts Python in the Arm system, and its environment variables."""
    (interpreter,) = [
        path for path in (folder / "system/usr/bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)
    ]
    variables = {
        "PYTHONHOME": str(folder / "system/usr"),
        "PYTHONPATH": str(folder / "site"),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
    return [str(interpreter), "-s"], variables


def _fingerprint() -> str:
    """Return a text that changes with what is installed: the plugin, the packages, and the version of the runtime."""
    content = SOURCE.read_bytes() + repr((EMULATOR, SYSTEM, CPU_FILES)).encode()
    return f"ai-edge-litert {version('ai-edge-litert')}, {hashlib.sha256(content).hexdigest()}"


def _check_tools() -> None:
    for tool, purpose in TOOLS.items():
        if shutil.which(tool) is None:
            raise ValueError(f'The device "arm64" needs {tool}, {purpose}. It is not on the PATH.')
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise ValueError(f'The device "arm64" needs pip, which downloads wheels. {sys.executable} has none: install pip there.')


def _install(folder: Path, on_step: Callable[[str], object]) -> None:
    """Install everything in an empty folder."""
    architecture = _run(["dpkg", "--print-architecture"], "dpkg").strip()
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        here, arm = Path(temporary, "here"), Path(temporary, "arm")
        on_step(f"apt downloads the lists of packages for {architecture} and for arm64, about 20 MB.")
        on_host, on_arm = _apt(here, architecture, "/var/lib/dpkg/status"), _apt(arm, "arm64", None)
        for apt in (on_host, on_arm):
            _run([*apt, "update"], "apt-get")
        for apt, packages, where, cache in ((on_host, EMULATOR, "emulator", here), (on_arm, SYSTEM, "system", arm)):
            on_step(f"apt downloads {', '.join(packages)} and what they need, about 15 MB, and dpkg-deb unpacks them.")
            install = ["install", "--download-only", "--no-install-recommends", "--yes", *packages]
            _run([*apt, *install], "apt-get")
            (folder / where).mkdir()
            for package in sorted((cache / "cache/archives").glob("*.deb")):
                _run(["dpkg-deb", "--extract", str(package), str(folder / where)], "dpkg-deb")
    _complete_system(folder / "system")
    _install_wheels(folder, on_step)
    on_step("cc compiles the counting plugin.")
    qemu = _qemu_version(folder)
    _compile(folder, qemu)
    _check_counts(folder)
    interpreter, _ = python(folder)
    facts = {
        "built from": _fingerprint(),
        "qemu": qemu,
        "python": Path(interpreter[0]).name,
        "litert": version("ai-edge-litert"),
    }
    (folder / READY).write_text(json.dumps(facts, indent=1))


def _apt(folder: Path, architecture: str, status: str | None) -> list[str]:
    """Return the start of an apt-get command that keeps its state in a folder, and installs nothing on this machine.

    Args:
        folder: the folder, which is made.
        architecture: whose packages are downloaded.
        status: the file with the packages that are there already. None: there are none.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "1",
        "Dir::Cache": str(folder / "cache"),
        "Dir::State": str(folder),
        "Dir::State::lists": str(folder / "lists"),
        "Dir::State::status": status or str(folder / "status"),
    }
    release = _os_release()
    if architecture == "arm64" and release.get("ID") == "ubuntu" and status is None:
        # Ubuntu keeps the packages of Arm on another server than those of x86.
        (folder / "sources.list").write_text(PORTS.format(release["VERSION_CODENAME"]))
        settings |= {"Dir::Etc::sourcelist": str(folder / "sources.list"), "Dir::Etc::sourceparts": "-"}
    return ["apt-get", "-q", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]


def _os_release() -> dict[str, str]:
    """Return what /etc/os-release says about the distribution."""
    lines = Path("/etc/os-release").read_text().splitlines() if Path("/etc/os-release").exists() else []
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def _complete_system(system: Path) -> None:
    """Add to the unpacked packages what an installed system would have."""
    for name in ("lib", "lib64", "bin", "sbin"):
        if not (system / name).exists() and (system / "usr" / name).exists():
            (system / name).symlink_to(Path("usr") / name)
    for name, content in CPU_FILES.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(content)


def _install_wheels(folder: Path, on_step: Callable[[str], object]) -> None:
    """Download the wheels of the runtime for the Python of the Arm system, and unpack them."""
    number = Path(python(folder)[0][0]).name.removeprefix("python")
    runtime = f"ai-edge-litert=={version('ai-edge-litert')}"
    on_step(f"pip downloads {runtime}, numpy and ml_dtypes for Python {number} on 64-bit Arm, about 40 MB.")
    platforms = [f"manylinux{tag}_aarch64" for tag in ("2014", "_2_17", "_2_24", "_2_27", "_2_28", "_2_31", "_2_34", "_2_35")]
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", number]
    options += [option for platform in platforms for option in ("--platform", platform)]
    with tempfile.TemporaryDirectory(dir=folder.parent) as wheels:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", wheels]
        _run([*pip, *options, runtime, "numpy", "ml_dtypes"], "pip")
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "site")


def _emulator(folder: Path) -> str:
    """Return the path of the emulator: the unpacked one, or that of this machine if it has the package already."""
    unpacked = folder / "emulator/usr/bin/qemu-aarch64"
    return str(unpacked) if unpacked.exists() else shutil.which("qemu-aarch64") or str(unpacked)


def _qemu_version(folder: Path) -> str:
    output = _run([_emulator(folder), "--version"], "qemu-aarch64", environment(folder))
    found = re.search(r"version (\d+\.\d+\.\d+)", output)
    if not found:
        raise ValueError(f"Expected qemu-aarch64 to tell its version. It says: {output.strip()!r}")
    return found[1]


def _compile(folder: Path, qemu: str) -> None:
    """Compile the counting plugin for this version of QEMU."""
    interface = 1 if tuple(map(int, qemu.split(".")[:2])) < (8, 2) else 2
    options = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DPLUGIN_API={interface}"]
    _run(["cc", *options, "-o", str(folder / PLUGIN), str(SOURCE)], "cc")


def _check_counts(folder: Path) -> None:
    """Check the counts of a program whose instructions and reads are known.

    Raises:
        ValueError: if they are wrong.
    """
    program, expected = known_program()
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        path = Path(temporary, "program")
        path.write_bytes(program)
        path.chmod(0o700)
        _run([*command(folder, "cortex-a76", "counts"), str(path)], "qemu-aarch64", environment(folder), temporary)
        before, after = ([int(word) for word in line.split()] for line in Path(temporary, "counts").read_text().splitlines())
    counted = tuple(b - a for a, b in zip(before, after, strict=True))
    if counted != expected:
        raise ValueError(
            f"Expected the emulator to count {expected[0]:,} instructions and {expected[1]:,} reads of a known loop. "
            f"It counted {counted[0]:,} and {counted[1]:,}. This version of QEMU cannot be used."
        )


def known_program(turns: int = 1000) -> tuple[bytes, tuple[int, int]]:
    """Return a program for 64-bit Arm, and how many instructions and reads it executes between its two marks.

    Its loop reads 8 bytes, 1 byte and 16 bytes, which counts as two reads, and writes three times, which does not count.
    """
    mark = [0xD2800808, 0xD2801900, 0xD2800022, 0xD4000001]  # write(200, x1, 1): mov x8, #64; mov x0, #200; mov x2, #1; svc #0
    start = [
        0xD10103FF,
        0x910003E1,
        0xD2800808,
        0xD28018E0,
        0xD2800022,
        0xD4000001,
    ]  # sub sp, sp, #64; mov x1, sp; write(199, ...)
    counter = [0xD2800003 | turns << 5]  # mov x3, #turns
    body = [
        0xF9400024,  # ldr x4, [x1]
        0x39400025,  # ldrb w5, [x1]
        0x3DC00020,  # ldr q0, [x1]
        0xF9000024,  # str x4, [x1]
        0x39000025,  # strb w5, [x1]
        0x3D800020,  # str q0, [x1]
        0xF1000463,  # subs x3, x3, #1
        0x54FFFF21,  # b.ne, back to the first of these
    ]
    end = [0xD2800BA8, 0xD2800000, 0xD4000001]  # exit(0): mov x8, #93; mov x0, #0; svc #0
    code = struct.pack(
        f"<{len(start) + 2 * len(mark) + 1 + len(body) + len(end)}I", *start, *mark, *counter, *body, *mark, *end
    )
    address, headers = 0x400000, 64 + 56
    size = headers + len(code)
    # An executable file: the header of the file and that of its only segment, which is loaded at `address`.
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 183, 1, address + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, size, size, 0x1000)
    return header + segment + code, (1 + len(body) * turns + len(mark), 4 * turns)


def _run(arguments: Sequence[str], tool: str, variables: Mapping[str, str] | None = None, folder: str | None = None) -> str:
    """Run a command, and return what it prints.

    Raises:
        ValueError: if it fails. The message has the last lines that the tool wrote to stderr.
    """
    environment = {**os.environ, "LC_ALL": "C", **(variables or {})}
    done = subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, cwd=folder)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "ERROR:"))] or lines
        reason = "; ".join(errors[-3:]) or f"exit code {done.returncode}"
        raise ValueError(f'Setting up the device "arm64" failed. {tool} says: {reason}. Mend this, and run `{SETUP}` again.')
    return done.stdout
