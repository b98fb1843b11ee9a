"""The shop's web front end: a page that counts its visits in Redis."""

import os
import sys
import time

import redis
from flask import Flask, jsonify

app = Flask(__name__)
started = time.time()


def required(name):
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set")
    return value


def store():
    return redis.Redis(
        host=required("REDIS_HOST"),
        port=int(os.environ.get("REDIS_PORT", "6379")),
        socket_connect_timeout=2,
        socket_timeout=2,
    )


# A catalogue in memory, of a configurable size.
catalogue = bytearray(int(os.environ.get("CATALOGUE_MIB", "8")) << 20)
for page in range(0, len(catalogue), 4096):
    catalogue[page] = 1


@app.get("/")
def index():
    try:
        visits = store().incr("visits")
    except redis.RedisError as error:
        return jsonify(error=f"the store does not answer: {error}"), 503
    return jsonify(shop=os.environ.get("SHOP_NAME", "shop"), visits=visits)


@app.get("/healthz")
def healthz():
    return jsonify(up=round(time.time() - started))


@app.get("/readyz")
def readyz():
    try:
        store().ping()
    except redis.RedisError as error:
        return jsonify(error=str(error)), 503
    return jsonify(ready=True)


if __name__ == "__main__":
    required("REDIS_HOST")
    app.run(host="0.0.0.0", port=int(os.environ.get("PORT", "8080")))
