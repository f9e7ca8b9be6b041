"""redis-py as an application would use it, configured for Sentinel. It writes until its input
ends, and prints what was acknowledged."""

import sys
import threading
import time

import redis
from redis.sentinel import Sentinel

master, sentinels, password = sys.argv[1:4]
hosts = [(a.split(":")[0], int(a.split(":")[1])) for a in sentinels.split(",")]
client = Sentinel(hosts, socket_timeout=2).master_for(master, password=password)

ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

i = 0
while not ended.is_set():
    try:
        client.sadd("compat:python", i)
        print("ack", i, client.incr("compat:python:n"), flush=True)
    except redis.RedisError as err:
        print(i, repr(err), file=sys.stderr, flush=True)
        time.sleep(0.02)
    i += 1
