# Makes small.json.gz in the working directory: a trace that this project's own code has not written, for its reader's test.
# The lines below are the example of operator/docs/placement.md.
import base64, gzip, json, struct

windows, layers, experts = 3, 2, 4
counts = [100 * w + 10 * l + e for w in range(windows) for l in range(layers) for e in range(experts)]
encoded = base64.b64encode(struct.pack(f"<{len(counts)}I", *counts)).decode()
trace = {"name": "small", "windows": windows, "layers": layers, "experts": experts, "counts": encoded}
with open("small.json.gz", "wb") as file:
    file.write(gzip.compress(json.dumps(trace).encode(), mtime=0))
