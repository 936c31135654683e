// The bus against a server played here: credentials from files and folders, and a close while it connects.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { until } from "../../test/kit/wait.ts";

import { accessAt, createBus } from "./nats.ts";

const info = 'INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576}\r\n';

/** Accepts connections and says nothing until greet(). */
async function server() {
  const sockets: Socket[] = [];
  const heard: string[] = [];
  const listening = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      heard.push(String(bytes));
      if (String(bytes).includes("PING")) socket.write("PONG\r\n");
    });
  }).listen(0, "127.0.0.1");
  await once(listening, "listening");
  const { port } = listening.address() as { port: number };
  return {
    ...{ sockets, heard, url: `nats://127.0.0.1:${port}` },
    close: () => {
      for (const socket of sockets) socket.destroy();
      listening.close();
    },
  };
}

test("a bus that is closed while it connects closes the connection that comes through after all", { timeout: 10_000 }, async () => {
  const { sockets, url, close } = await server();
  const bus = createBus({ url, name: "test" });
  try {
    await until("it connects", () => sockets.length === 1);
    const closed = bus.close();
    sockets[0]?.write(info);
    await closed;
    await until("the connection ends", () => sockets[0]?.closed === true || sockets[0]?.readableEnded === true);
    await until("the bus says so", () => bus.status.reason === "Closed");
  } finally {
    close();
  }
});

test("credentials are read at every attempt, and without them no server is asked", { timeout: 20_000 }, async () => {
  const { sockets, heard, url, close } = await server();
  let text: string | undefined;
  const access = async () => {
    if (text === undefined) throw new Error("none yet");
    return { credentials: text };
  };
  const bus = createBus({ url, name: "test", access });
  try {
    await until("a reason", () => bus.status.reason === "none yet");
    assert.equal(sockets.length, 0);
    text = "secret\n";
    await until("it connects", () => sockets.length === 1);
    sockets[0]?.write(info);
    await until("connected", () => bus.status.connected);
    assert.match(heard.join(""), /"auth_token":"secret"/);
  } finally {
    await bus.close();
    close();
  }
});

test("a server that offers no TLS is sent no token where a CA or a tls:// URL asks for it", { timeout: 20_000 }, async () => {
  for (const asked of ["ca", "url"]) {
    const { sockets, heard, url, close } = await server();
    const access = async () => ({ credentials: "s3cret", ...(asked === "ca" ? { ca: "PEM" } : {}) });
    const bus = createBus({ url: asked === "ca" ? url : url.replace("nats://", "tls://"), name: "test", access });
    try {
      await until("it connects", () => sockets.length === 1);
      sockets[0]?.write(info);
      await until("it is refused", () => /tls/.test(bus.status.reason));
      assert.doesNotMatch(heard.join(""), /s3cret/);
    } finally {
      await bus.close();
      close();
    }
  }
});

test("credentials are a file, or a folder with user.creds before token, and ca.crt beside them", async () => {
  const dir = mkdtempSync(join(tmpdir(), "enodia-creds-"));
  try {
    const folder = join(dir, "nats");
    mkdirSync(folder);
    const missing = { code: "CredentialsNotFound", message: /nats holds no NATS credentials.*user.creds or token/ };
    await assert.rejects(accessAt(folder)(), missing);
    await assert.rejects(accessAt(join(dir, "nowhere"))(), { code: "CredentialsNotFound" });
    writeFileSync(join(folder, "token"), "t");
    assert.deepEqual(await accessAt(folder)(), { credentials: "t" });
    assert.deepEqual(await accessAt(join(folder, "token"))(), { credentials: "t" });
    writeFileSync(join(folder, "user.creds"), "c");
    writeFileSync(join(folder, "ca.crt"), "PEM");
    assert.deepEqual(await accessAt(folder)(), { credentials: "c", ca: "PEM" });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
