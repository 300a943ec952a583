"""Makes files with odd names, and entries of a folder that are no ordinary files."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.support.odd_images.files import Odd, Sample


def names(samples: dict[str, Sample]) -> Iterator[Odd]:
    """Gives a sound file names with spaces, line breaks, patterns, control characters, and the longest length."""
    accepted = [
        *("with space.png", " leading.png", "two\nlines.png", "tab\there.png", "größe 图像 🖼.png", "--quiet.png"),
        *("[a-z]*?.png", "100%s{}.png", "a.b.c.png", "UPPER.PNG", os.fsdecode(b"latin1_\xe9.png")),
        *("bell\a\x1b[31m.png", "x" * 240 + ".png", "ü" * 115 + ".png", "$(id).png", "back\\slash.png"),
    ]
    sample = samples["png"]
    for name in accepted:
        yield Odd("name", name, sample.data, (sample.pixels,))
    # The name of the output, which ends in _x2.png, is longer than a file system allows.
    yield Odd("name", "y" * 251 + ".png", sample.data)
    for name in ("refused\nin two lines.png", os.fsdecode(b"refused_\xff.png")):
        yield Odd("name", name, b"no image")


def file_system(samples: dict[str, Sample]) -> Iterator[Odd]:
    """Makes links, pipes, a socket, a device, a folder named like an image, and a file without permission."""
    sample = samples["png"]

    def unreadable(path: Path) -> None:
        path.write_bytes(sample.data)
        path.chmod(0)

    def linked(path: Path) -> None:
        target = path.parent.with_name("elsewhere")
        target.write_bytes(sample.data)
        path.symlink_to(target)

    def listening(path: Path) -> None:
        # The path of a socket has to be short, so it is given relative to its folder.
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
            listener.bind(path.name)

    # Root may read the first one.
    yield Odd("file system", "no_permission.png", unreadable, (sample.pixels,), may_refuse=True)
    yield Odd("file system", "folder.png/inside.png", sample.data, (sample.pixels,))
    yield Odd("file system", "dangling.png", lambda path: path.symlink_to("missing.png"))
    yield Odd("file system", "circle.png", lambda path: path.symlink_to("circle.png"))
    yield Odd("file system", "link.png", linked, (sample.pixels,))
    yield Odd("file system", "pipe.png", os.mkfifo)
    yield Odd("file system", "pipe.tif", os.mkfifo)
    yield Odd("file system", "socket.png", listening)
    yield Odd("file system", "device.png", lambda path: path.symlink_to("/dev/zero"))
