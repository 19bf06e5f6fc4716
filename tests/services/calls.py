"""A gRPC server: `calls.py PORT`. /test/Count streams 80 numbers in 8 s, /test/Echo answers what it gets.

On TERM it takes nothing new (GOAWAY) and ends when all calls have.
"""

import signal
import sys
import threading
import time
from concurrent import futures

import grpc


def count(request, context):
    for number in range(80):
        yield b"%d" % number
        time.sleep(0.1)  # 8 s in all


class Calls(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test/Count":
            return grpc.unary_stream_rpc_method_handler(count)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[Calls()])
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
ending = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ending.set())
server.start()
ending.wait()
server.stop(60).wait()
