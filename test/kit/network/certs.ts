// A throw-away CA and member certificates for tests, made with the openssl program, in the shape the operator gives
// pods (SAN and spiffe URI). The folder dies with the process that made it.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fixedTls, type TlsMaterial, type TlsSource } from "../../../runtime/net/tls.ts";

export interface TestCa {
  readonly dir: string;
  /** Material of `rank-<r>`, `gateway` or `operator` of <ns>/<name>; without a pod's uid as older operators made it. */
  issue(
    member: string,
    namespace: string,
    name: string,
    podName?: string,
    podUid?: string,
  ): TlsSource & { update(material: TlsMaterial): void };
  /** Of a server at 127.0.0.1. */
  local(): TlsMaterial;
  /** Of a server by these names, as openssl writes them: `IP:10.0.0.1`, `DNS:a.b`. */
  server(names: readonly string[]): TlsMaterial;
}

/** Folders that go with the process: one listener for all, since one for each would be warned of as a leak. */
const folders: string[] = [];
process.once("exit", () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

const config = "[req]\nprompt = no\ndistinguished_name = dn\n[dn]\n";

export function createTestCa(): TestCa {
  const dir = mkdtempSync(join(tmpdir(), "enodia-ca-"));
  folders.push(dir);
  const configFile = join(dir, "openssl.cnf");
  writeFileSync(configFile, config);
  const make = (file: string, subject: string, extra: readonly string[]) => {
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", join(dir, `${file}.key`)];
    const args = [
      "req",
      "-x509",
      "-config",
      configFile,
      ...key,
      "-days",
      "2",
      "-subj",
      subject,
      "-out",
      join(dir, `${file}.crt`),
      ...extra,
    ];
    execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
  };
  make("ca", "/CN=enodia test", ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]);
  let serial = 0;
  const leaf = (subject: string, names: string): TlsMaterial => {
    const file = `leaf-${serial++}`;
    const ca = ["-CA", join(dir, "ca.crt"), "-CAkey", join(dir, "ca.key")];
    make(file, subject, [...ca, "-addext", `subjectAltName=${names}`, "-addext", "basicConstraints=critical,CA:FALSE"]);
    return {
      cert: readFileSync(join(dir, `${file}.crt`)),
      key: readFileSync(join(dir, `${file}.key`)),
      ca: readFileSync(join(dir, "ca.crt")),
    };
  };
  return {
    dir,
    issue: (member, namespace, name, podName = member, podUid) => {
      const uris = [`spiffe://enodia/${namespace}/${name}/${podName}`, ...(podUid === undefined ? [] : [`urn:uuid:${podUid}`])];
      return fixedTls(leaf(`/CN=${member}`, [`DNS:${member}.${name}.${namespace}.enodia`, ...uris.map((uri) => `URI:${uri}`)].join()));
    },
    local: () => leaf("/CN=127.0.0.1", "IP:127.0.0.1"),
    server: (names) => leaf("/CN=server", names.join()),
  };
}
