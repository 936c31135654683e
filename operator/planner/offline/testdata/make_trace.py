# Makes small.json.gz in the working directory: a trace that this project's own code has not written, for its reader's test.
# The lines below are the example of operator/docs/placement.md.
import base64, gzip, json, struct

windows, layers, experts = 3, 2, 4
counts = [[[100 * w + 10 * l + e for e in range(experts)] for l in range(layers)] for w in range(windows)]

def encode(rows):  # any nesting of lists of whole numbers
    while isinstance(rows[0], list):
        rows = [number for row in rows for number in row]
    return base64.b64encode(struct.pack(f"<{len(rows)}I", *rows)).decode()

trace = {"name": "small", "windows": windows, "layers": layers, "experts": experts, "counts": encode(counts)}
with open("small.json.gz", "wb") as file:
    file.write(gzip.compress(json.dumps(trace).encode(), mtime=0))
