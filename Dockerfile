# The wrapper, added to any image that has Python 3.9 or newer:
#
#     docker build --build-arg IMAGE=my/service:1.2 --tag my/service:1.2-wrapped .
#     docker run -p 8080:8080 my/service:1.2-wrapped --upstream 127.0.0.1:3000 -- /run.sh
#
# An image without Python gets it first, in a Dockerfile of two lines (Alpine: `apk add --no-cache python3`):
#
#     FROM grafana/grafana
#     USER root
#     RUN apk add --no-cache python3
#     USER grafana
ARG IMAGE=python:3-slim

# The same image compiles, so that the bytecode is its own Python's; as root, which the final image need not be.
# No RUN here needs a shell: the image may be distroless.
FROM ${IMAGE} AS package
USER 0
COPY wrapper /opt/wrapper/wrapper
# `python3 /opt/wrapper` is the wrapper, wherever it is called.
COPY wrapper/__main__.py /opt/wrapper/__main__.py
COPY --chmod=755 entry.sh /opt/wrapper/entry.sh
# unchecked-hash (PEP 552): a start reads no source file, compares no time and never writes.
RUN ["python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/opt/wrapper/wrapper"]

# User, working folder, environment and everything else stay as the image has them.
FROM ${IMAGE}
COPY --from=package /opt/wrapper /opt/wrapper
# For `python3 -m wrapper` and sidecars' tests; the service does not see it.
ENV PYTHONPATH=/opt/wrapper${PYTHONPATH:+:$PYTHONPATH}
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "/opt/wrapper/__main__.py", "health", "--ready"]
# The base image's own would be inherited: httpd has SIGWINCH, which the wrapper passes on, and docker stop would kill it.
# What the service itself wants to be stopped with is --stop-signal, or `docker run --stop-signal`: TERM, INT or QUIT.
STOPSIGNAL SIGTERM
# Without a shell in the image: ENTRYPOINT ["python3", "/opt/wrapper/__main__.py"], which is all that entry.sh does.
# An image of your own goes on from here: FROM this one, settings as ENV WRAPPER_UPSTREAM=127.0.0.1:3000, and
# CMD ["--", "/run.sh"]; what `docker run IMAGE ...` is given then stands in the place of CMD.
ENTRYPOINT ["/opt/wrapper/entry.sh"]
