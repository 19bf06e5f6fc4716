# The wrapper in front of any image's service, whether the image has a Python, a shell and a libc or not:
#
#     docker build --build-arg IMAGE=my/service:1.2 --tag my/service:1.2-wrapped .
#     docker run -p 8080:8080 my/service:1.2-wrapped --upstream 127.0.0.1:3000 /run.sh
#
# With the image's own entrypoint, its CMD and its port as they were (this file cannot know them, `inspect` does):
#
#     docker inspect my/service:1.2 | python3 -m wrapper dockerfile | docker build --tag my/service:1.2-wrapped -f - .
ARG IMAGE=python:3-slim

ARG PYTHON=python:3-slim
FROM ${PYTHON} AS wrapper
COPY wrapper /src/wrapper
WORKDIR /src
# Modules for sidecars beyond the usual ones: --build-arg MODULES="ssl sqlite3". TLS is 9 MB, and needs ssl.
ARG MODULES
RUN python3 -m wrapper bundle /opt/wrapper $MODULES

FROM ${IMAGE}
COPY --from=wrapper /opt/wrapper /opt/wrapper
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/opt/wrapper/lib/ld.so", "--library-path", "/opt/wrapper/lib", "/opt/wrapper/bin/python3", "-IS", "-m", "wrapper", "health", "--ready"]
# The image's own would be inherited: httpd has SIGWINCH, which the wrapper passes on, and docker stop would kill it.
# What the service itself wants to be stopped with is --stop-signal, or `docker run --stop-signal`: TERM, INT or QUIT.
STOPSIGNAL SIGTERM
# User, working folder, environment and volumes stay the image's. Settings are ENV WRAPPER_UPSTREAM=127.0.0.1:3000 and
# so on, in an image of your own FROM this one. For people there is /opt/wrapper/entry.sh, where there is a shell.
ENTRYPOINT ["/opt/wrapper/lib/ld.so", "--library-path", "/opt/wrapper/lib", "/opt/wrapper/bin/python3", "-IS", "-m", "wrapper"]
