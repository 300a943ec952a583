"""The address of the page."""

import dataclasses
import ipaddress
import socket

from seemore_jax.system.errors import InputError


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the page is.

    Attributes:
      host: the address to listen on. With 127.0.0.1, only this machine can open the page.
      port: the port to listen on.
    """

    host: str
    port: int

    def check(self) -> None:
        """Checks that the page can listen there.

        Raises:
          InputError: the address or the port cannot be used.
        """
        if not 0 < self.port < 2**16:
            raise InputError(f"--port is {self.port}, not 1 to 65535")
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            socket.create_server((self.host, self.port), family=family).close()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"cannot listen on {self.host}, port {self.port}: {reason}; choose with --host and --port"
            ) from error

    def is_local(self) -> bool:
        """Returns whether only this machine reaches the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"
