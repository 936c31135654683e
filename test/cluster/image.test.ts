// Images and their tars: equal input gives equal bytes, and standard tools read them.

import assert from "node:assert/strict";
import { chmodSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { run } from "./exec.ts";
import { buildImage, dropOldLayers, fullReference, type ImageFile, layerEntries, parseLdd } from "./image.ts";

describe("images", () => {
  const oldCache = process.env.ENODIA_CACHE;
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), "enodia-image-"));
    process.env.ENODIA_CACHE = join(folder, "cache");
  });
  after(() => {
    if (oldCache === undefined) delete process.env.ENODIA_CACHE;
    else process.env.ENODIA_CACHE = oldCache;
    rmSync(folder, { recursive: true, force: true });
  });

  const long = `/app/${"deep/".repeat(30)}file.txt`;
  const build = (files: readonly ImageFile[], out: string) =>
    buildImage({
      ref: "enodia/x:dev",
      layers: [{ files }],
      config: { entrypoint: ["/bin/x"], user: "1:1", env: { A: "b" } },
      out: join(folder, out),
    });
  const bytes = (out: string) => readFileSync(join(folder, out));

  test("the same files in another order, of another age, give the same image to the byte", async () => {
    const source = join(folder, "source");
    writeFileSync(source, "text");
    const files = [
      { path: "/b", content: "b" },
      { path: "/a/c", source },
    ];
    const first = await build(files, "1.tar");
    rmSync(join(folder, "cache"), { recursive: true });
    utimesSync(source, 1, 1);
    const second = await build([...files].reverse(), "2.tar");
    assert.equal(first.digest, second.digest);
    assert.deepEqual(bytes("1.tar"), bytes("2.tar"));
  });

  test("old layers go, and what else lies in the cache's folder stays", () => {
    const layers = mkdtempSync(join(folder, "layers-"));
    const key = "0123456789abcdef0123456789abcdef";
    const names = [`${key}.tar`, `${key}.tar.sha256`, `${key}.tar.77.00ff00ff`, "photos.tar", "notes"];
    for (const name of names) {
      writeFileSync(join(layers, name), "");
      utimesSync(join(layers, name), 1, 1);
    }
    dropOldLayers(layers);
    assert.deepEqual(readdirSync(layers).toSorted(), ["notes", "photos.tar"]);
  });

  test("an image that is there already is left as it is, a truncated or another one is written anew", async () => {
    const files = [{ path: "/a", content: "same" }];
    await build(files, "k.tar");
    const whole = bytes("k.tar");
    const inode = lstatSync(join(folder, "k.tar")).ino;
    await build(files, "k.tar");
    assert.equal(lstatSync(join(folder, "k.tar")).ino, inode);
    writeFileSync(join(folder, "k.tar"), whole.subarray(0, -1024));
    await build(files, "k.tar");
    assert.deepEqual(bytes("k.tar"), whole);
    await build([{ path: "/a", content: "diff" }], "k.tar");
    assert.equal(bytes("k.tar").length, whole.length);
    assert.notDeepEqual(bytes("k.tar"), whole);
  });

  test("a changed byte, mode or path changes the digest, with the layer cache in place", async () => {
    const source = join(folder, "changing");
    writeFileSync(source, "one");
    chmodSync(source, 0o644);
    const digests = [(await build([{ path: "/a", source }], "c.tar")).digest];
    writeFileSync(source, "two");
    digests.push((await build([{ path: "/a", source }], "c.tar")).digest);
    digests.push((await build([{ path: "/a", source, mode: 0o600 }], "c.tar")).digest);
    digests.push((await build([{ path: "/b", source }], "c.tar")).digest);
    assert.equal(new Set(digests).size, 4);
  });

  test("tar reads image and layers: names of any length, links, modes and folders come out as they went in", async () => {
    const source = join(folder, "program");
    writeFileSync(source, "#!/bin/sh\n");
    chmodSync(source, 0o755);
    symlinkSync(source, join(folder, "link"));
    await build(
      [
        { path: long, content: "long" },
        { path: "/bin/x", source: join(folder, "link") },
        { path: "/tmp", folder: true, mode: 0o1777 },
        { path: "/l", linkTarget: `/${"t".repeat(120)}` },
      ],
      "t.tar",
    );
    const unpacked = mkdtempSync(join(folder, "unpacked-"));
    await run("tar", ["-xf", join(folder, "t.tar"), "-C", unpacked]);
    const index = JSON.parse(readFileSync(join(unpacked, "index.json"), "utf8"));
    assert.equal(index.manifests[0].annotations["io.containerd.image.name"], "docker.io/enodia/x:dev");
    const blob = (digest: string) => join(unpacked, "blobs/sha256", digest.slice("sha256:".length));
    const manifest = JSON.parse(readFileSync(blob(index.manifests[0].digest), "utf8"));
    const config = JSON.parse(readFileSync(blob(manifest.config.digest), "utf8"));
    assert.deepEqual(config.rootfs.diff_ids, [manifest.layers[0].digest]);
    assert.deepEqual(config.config.Env, ["A=b"]);
    const layer = blob(manifest.layers[0].digest);
    assert.equal((await run("sha256sum", [layer])).stdout.split(" ")[0], layer.slice(-64));
    const { stdout } = await run("tar", ["-tvf", layer]);
    const lines = stdout.trim().split("\n");
    const line = (end: string) => lines.find((one) => one.endsWith(end)) ?? assert.fail(`${end} is not in\n${stdout}`);
    assert.match(line(long.slice(1)), /^-rw-r--r-- 0\/0 +4 1970-01-01/);
    assert.match(line(" bin/x"), /^-rwxr-xr-x/);
    assert.match(line(" tmp/"), /^drwxrwxrwt/);
    assert.match(line(` l -> /${"t".repeat(120)}`), /^lrwxrwxrwx/);
    assert.match(line(" bin/"), /^drwxr-xr-x/);
    assert.equal((await run("tar", ["-xOf", layer, long.slice(1)])).stdout, "long");
  });

  test("parents come before what is in them, once, and the last of two equal paths wins", () => {
    const entries = layerEntries([
      { path: "/a/b/c", content: "1" },
      { path: "/a/d", content: "2" },
      { path: "/a/d", content: "33" },
    ]);
    assert.deepEqual(
      entries.map((entry) => [entry.path, entry.size]),
      [
        ["a/", 0],
        ["a/b/", 0],
        ["a/b/c", 1],
        ["a/d", 2],
      ],
    );
  });

  test("short names are written out as the kubelet looks for them", () => {
    assert.equal(fullReference("pause:1"), "docker.io/library/pause:1");
    assert.equal(fullReference("enodia/operator:dev"), "docker.io/enodia/operator:dev");
    assert.equal(fullReference("localhost:5000/x:1"), "localhost:5000/x:1");
    assert.equal(fullReference("ghcr.io/a/b:1"), "ghcr.io/a/b:1");
    for (const wrong of ["x", "X:1", "enodia/x:", ""]) assert.throws(() => fullReference(wrong), /name:tag/);
  });

  test("libraries are read from ldd’s output, the missing ones by name", () => {
    const output = `\tlinux-vdso.so.1 (0x00007ffd)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fb3)
\tlibfoo.so.1 => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007fb4)\n`;
    assert.deepEqual(parseLdd(output), {
      found: ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"],
      missing: ["libfoo.so.1"],
    });
  });
});
