import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { test } from "node:test";
import tls from "node:tls";
import { authorityIsGood, createAuthority, isIssuedBy, issueLeaf, leafIsGood, validityOf } from "./authority.ts";

const names = { dns: ["rank-0.moe.ns.enodia"], uris: ["spiffe://enodia/ns/moe/moe-0-abcde"] };
const now = new Date();

test("a leaf names its rank and pod and is signed by the deployment's CA", async () => {
  const ca = await createAuthority("moe.ns.enodia", now);
  const leaf = await issueLeaf(ca, names, now);
  const cert = new X509Certificate(leaf.cert);
  assert.equal(cert.subjectAltName, "DNS:rank-0.moe.ns.enodia, URI:spiffe://enodia/ns/moe/moe-0-abcde");
  assert.ok(cert.verify(new X509Certificate(ca.cert).publicKey));
  assert.ok(cert.checkIssued(new X509Certificate(ca.cert)));
  assert.equal(await isIssuedBy(ca.cert, leaf.cert), true);
  assert.ok(validityOf(leaf.cert).endsMs < validityOf(ca.cert).endsMs);
});

test("two ends with leaves of one CA meet over mutual TLS, and a stranger is refused", async () => {
  const ca = await createAuthority("moe.ns.enodia", now);
  const server = await issueLeaf(ca, names, now);
  const client = await issueLeaf(ca, { dns: ["operator.moe.ns.enodia"], uris: ["spiffe://enodia/ns/moe/operator"] }, now);
  const stranger = await issueLeaf(await createAuthority("x", now), names, now);
  const listening = tls.createServer({ ...server, ca: ca.cert, requestCert: true, rejectUnauthorized: true }, (socket) => socket.end("hi"));
  listening.on("tlsClientError", () => {});
  listening.listen(0, "127.0.0.1");
  await once(listening, "listening");
  const { port } = listening.address() as { port: number };
  const say = async (who: { cert: string; key: string }) => {
    const socket = tls.connect({ ...who, ca: ca.cert, port, host: "127.0.0.1", servername: "rank-0.moe.ns.enodia" });
    const chunks: Buffer[] = [];
    for await (const chunk of socket) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks).toString();
  };
  try {
    assert.equal(await say(client), "hi");
    // TLS 1.3 brings the refusal after the client's handshake, as an error or as an end without a word.
    assert.notEqual(await say(stranger).catch(() => "refused"), "hi");
  } finally {
    listening.close();
  }
});

test("a leaf is renewed when it is old, of other names, of another CA, or garbage", async () => {
  const ca = await createAuthority("moe.ns.enodia", now);
  const leaf = await issueLeaf(ca, names, now);
  const inHours = (hours: number) => new Date(now.getTime() + hours * 3_600_000);
  assert.equal(await leafIsGood(ca, leaf.cert, names, now), true);
  assert.equal(await leafIsGood(ca, leaf.cert, names, inHours(11)), true);
  assert.equal(await leafIsGood(ca, leaf.cert, names, inHours(16)), false);
  assert.equal(await leafIsGood(ca, leaf.cert, names, inHours(-2)), false, "nobody accepts it yet");
  assert.equal(await leafIsGood(ca, leaf.cert, { ...names, dns: ["rank-1.moe.ns.enodia"] }, now), false);
  assert.equal(await leafIsGood(await createAuthority("other", now), leaf.cert, names, now), false);
  assert.equal(await leafIsGood(ca, "garbage", names, now), false);
});

test("a CA is good when its halves belong together, and nobody else's signature is taken for its own", async () => {
  const [ca, other] = [await createAuthority("moe.ns.enodia", now), await createAuthority("moe.ns.enodia", now)];
  const leaf = await issueLeaf(ca, names, now);
  assert.equal(await authorityIsGood(ca), true);
  assert.equal(await authorityIsGood({ cert: ca.cert, key: other.key }), false);
  assert.equal(await authorityIsGood(leaf), false);
  assert.equal(await authorityIsGood({ cert: ca.cert, key: "x" }), false);
  assert.equal(await isIssuedBy(other.cert, leaf.cert), false);
  assert.equal(await isIssuedBy(ca.cert, "garbage"), false);
});

test("leaves made at once are renewed one after another, and each has hours left until then", async () => {
  const ca = await createAuthority("moe.ns.enodia", now);
  const leaves = await Promise.all(Array.from({ length: 60 }, () => issueLeaf(ca, names, now)));
  const goodAfter = async (hours: number) => {
    const good = await Promise.all(leaves.map(({ cert }) => leafIsGood(ca, cert, names, new Date(now.getTime() + hours * 3_600_000))));
    return good.filter(Boolean).length;
  };
  const counts = await Promise.all([11, 12.5, 13.5, 14.5, 16].map(goodAfter));
  assert.deepEqual([counts[0], counts[4]], [60, 0]);
  assert.ok(
    counts.every((count, i) => i === 0 || count < (counts[i - 1] as number)),
    counts.join(),
  );
});
