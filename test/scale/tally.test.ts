// The tally counts bytes from outside, connections between processes of its own, and versions on their way.
import assert from "node:assert/strict";
import { connect, createServer, type Server } from "node:net";
import { test } from "node:test";
import { ports } from "../../crds/common.ts";
import { exec, until } from "../kit/processes/process.ts";
import { Tally, Versions } from "./tally.ts";

const listen = (host: string): Promise<Server> =>
  new Promise((resolve) => {
    const server = createServer((socket) => void socket.on("data", () => {}).on("error", () => {}));
    server.listen(ports.grpc, host, () => resolve(server));
  });

test("bytes of another process are the operator's; what this process connects is from rank to rank", { timeout: 60_000 }, async () => {
  const host = `127.${200 + (process.pid % 50)}.7.7`;
  const server = await listen(host);
  const tally = new Tally();
  try {
    const own = connect(ports.grpc, host);
    await until("the own connection", () => (tally.totals().opened === 1 ? true : undefined), { timeoutMs: 10_000 });
    own.end(Buffer.alloc(70_000));
    const send = `require("net").connect(${ports.grpc}, "${host}").end(Buffer.alloc(50_000))`;
    assert.equal((await exec(process.execPath, ["-e", send])).code, 0);
    await until("both to be closed", () => (tally.totals().closed === 1 && tally.totals().operatorConnections === 1 ? true : undefined), {
      timeoutMs: 10_000,
    });
    const { opened, operatorBytes } = tally.totals();
    assert.deepEqual({ opened, operatorBytes }, { opened: 1, operatorBytes: 50_000 });
  } finally {
    tally.stop();
    server.close();
  }
});

test("a version is on its way from the first that has it to the last", () => {
  const versions = new Versions();
  versions.look([3, 3], 0);
  versions.look([4, 3], 1_000);
  versions.look([5, 3], 2_000);
  versions.look([5, 4], 3_000);
  versions.look([5, 5], 6_000);
  assert.deepEqual(versions.take(), { versions: 3, slowest: 4 });
  assert.deepEqual(versions.take(), { versions: 0, slowest: 0 });
});
