#!/bin/sh
# The entrypoint of an image: `exec`, so that the wrapper is PID 1 and gets the signals itself.
# The service's own command is what the image's CMD (or `docker run IMAGE ...`) gives, behind the options and `--`.
exec python3 -m wrapper "$@"
