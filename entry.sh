#!/bin/sh
# The entrypoint of an image: `exec`, so that the wrapper is PID 1 and gets the signals itself. The file, not `-m wrapper`:
# for that Python would look into the image's working folder first, and run a wrapper.py or a types.py there.
# The service's own command is what the image's CMD (or `docker run IMAGE ...`) gives, behind the options and `--`.
exec python3 /opt/wrapper/__main__.py "$@"
