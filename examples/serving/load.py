"""How fast is the server? Requests at once, for some seconds: requests/s, rows/s, and latencies.

python examples/serving/load.py http://127.0.0.1:8080/score rows.jsonl --rows 64 --clients 8 --seconds 10
"""

import argparse
import http.client
import itertools
import json
import threading
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("data", type=Path, help="rows as JSON, one a line")
    parser.add_argument("--rows", type=int, default=1, help="of each request")
    parser.add_argument("--clients", type=int, default=8, help="requests at once")
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    rows = [json.loads(line) for line in asked.data.read_text().splitlines()]
    found: list[float] = []
    failures: list[str] = []
    begun = time.perf_counter()
    stop = begun + asked.seconds
    threads = [
        threading.Thread(target=client, args=(asked.url, rows[n:] + rows[:n], asked.rows, stop, found, failures))
        for n in range(asked.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or not found:
        raise SystemExit(f"error: {failures[0] if failures else 'no request was answered'}")
    took = time.perf_counter() - begun
    found.sort()
    rate = len(found) / took
    at = {share: found[min(len(found) - 1, int(share * len(found)))] * 1000 for share in (0.5, 0.99)}
    print(
        f"{asked.rows} rows a request, {asked.clients} clients: {rate:,.0f} requests/s, "
        f"{rate * asked.rows:,.0f} rows/s, p50 {at[0.5]:.1f} ms, p99 {at[0.99]:.1f} ms"
    )


def client(url: str, rows: list[object], size: int, stop: float, found: list[float], failures: list[str]) -> None:
    """One connection that asks again as soon as it is answered."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    endless = itertools.cycle(rows)
    while time.perf_counter() < stop and not failures:
        body = json.dumps({"rows": list(itertools.islice(endless, size))})
        begun = time.perf_counter()
        try:
            connection.request("POST", parts.path, body)
            answer = connection.getresponse()
            text = answer.read()
        except OSError as error:
            failures.append(f"{url}: {error}")
            return
        if answer.status != HTTPStatus.OK:
            failures.append(f"{url}: status {answer.status}: {text[:200]!r}")
            return
        found.append(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
