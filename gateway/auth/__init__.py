"""Who is connected: a token becomes a principal (`gateway.principal` says what it may).

`door` is what all doors ask; behind it `token_file`, `jwt` with `keyring` and `jwks`, and `api_keys`. `tickets` are for
clients that have nothing but a URL. `config` reads the file of `--auth-file`.
"""

from gateway.auth.door import Anyone, Authenticator
from gateway.auth.token_file import TokenFile
from gateway.principal import Principal

__all__ = ["Anyone", "Authenticator", "Principal", "TokenFile"]
