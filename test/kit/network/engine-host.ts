// An EngineHost on a free port of loopback, whose caller chooses the answers; it ends with the test.
import type { TestContext } from "node:test";
import { EngineHost, type EngineHostOptions } from "../../../runtime/net/engine-host.ts";
import type { TestCa } from "./certs.ts";

type Answers = Pick<EngineHostOptions, "namespace" | "name" | "hidden" | "serve"> & Partial<EngineHostOptions> & { readonly ca: TestCa };

export async function engineHost(t: TestContext, { ca, ...options }: Answers) {
  const [problems, refused]: [string[], string[]] = [[], []];
  const server = new EngineHost({
    ...{ tls: ca.issue("rank-1", options.namespace, options.name), sums: false, refuses: () => undefined },
    ...{ onProblem: (message) => problems.push(message), onRefused: (result) => refused.push(result) },
    ...options,
  });
  const port = await server.listen("127.0.0.1", 0);
  t.after(() => server.close());
  return { server, port, problems, refused };
}
