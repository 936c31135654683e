// `enodia page`: the operator's page at a port of this machine, by connections to the pod that leads.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { type Duplex, pipeline } from "node:stream";
import { AppError, ports } from "../../../crds/common.ts";
import { declare, flag, text, value } from "../command.ts";
import { findOperators, leaseOf, type OperatorRef } from "../doctor/operator.ts";
import { type ClusterAccess, openCluster } from "../kube.ts";
import { clusterOptions, whole } from "../options.ts";

/** A browser opens at most six, and the page has as many readers. */
const connectionsMax = 64;
/** The first answer tells whether there is a page. */
const answerMsMax = 20_000;

export const command = declare({
  about:
    "Opens the operator's page (page.enabled of the chart) in a browser, through a port of this machine, until Ctrl-C. Each connection goes to the pod that leads then. Needs create on pods/portforward in the operator's namespace.",
  options: {
    ...clusterOptions,
    namespace: text("-n, --namespace <name>", "of the operator (default: where one is installed)"),
    port: value("--port <number>", "of this machine; 0 takes a free one", whole(0, 65_535), ports.page),
    printsOnly: flag("--no-browser", "prints the address, and opens no browser"),
  },
  async action({ port, printsOnly, ...options }) {
    const operator = await operatorOf(openCluster(options), options.namespace);
    const { kube, connect } = openCluster({ ...options, namespace: operator.namespace });
    const leader = async (): Promise<string> => {
      const holder = (await leaseOf(kube, operator))?.spec.holderIdentity;
      if (holder) return holder;
      throw new AppError(`no replica of ${operator.namespace}/${operator.name} leads; see: enodia doctor`, { code: "NotFound" });
    };
    const forward = await forwardPage(async () => connect(await leader(), ports.page), port);
    try {
      const ended = Promise.race(["SIGINT", "SIGTERM"].map((signal) => once(process, signal)));
      await forward.check();
      process.stdout.write(`the page is at ${forward.url} until Ctrl-C\n`);
      if (!printsOnly && process.stdout.isTTY) openBrowser(forward.url);
      await ended;
    } finally {
      forward.close();
    }
    return 0;
  },
});

async function operatorOf({ kube }: ClusterAccess, namespace: string | undefined): Promise<OperatorRef> {
  const found = await findOperators(kube, namespace);
  const [operator, ...others] = found ?? [];
  if (operator && others.length === 0) return operator;
  const why = found === undefined ? "you may not list Deployments in all namespaces" : `${found.length} operators are installed`;
  throw new AppError(`${why}: name the operator's namespace by -n`, { code: "NotFound" });
}

/** Listens on loopback; each connection becomes one that `connect` makes. */
export async function forwardPage(connect: () => Promise<Duplex>, port: number) {
  let problem: AppError | undefined;
  const failed = (error: unknown): void => {
    if (error) problem = AppError.from(error);
  };
  const open = new Set<Duplex>();
  const server = createServer((near) => {
    open.add(near);
    near.on("close", () => open.delete(near)).on("error", () => {});
    connect().then(
      (far) => {
        pipeline(far, near, failed);
        pipeline(near, far, () => {});
      },
      (error: unknown) => {
        failed(error);
        near.destroy();
      },
    );
  });
  server.maxConnections = connectionsMax;
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  return {
    url,
    /** Throws AppError `Unavailable` with the remedy where no page answers. */
    async check(): Promise<void> {
      try {
        await (await fetch(url, { signal: AbortSignal.timeout(answerMsMax) })).body?.cancel();
      } catch (caught) {
        const { message } = problem ?? AppError.from(caught);
        throw new AppError(`no page answers: ${message}; helm upgrade with page.enabled=true where it is off`, { code: "Unavailable" });
      }
    },
    close(): void {
      server.close();
      for (const near of open) near.destroy();
    },
  };
}

/** The address is on the terminal as well, so a machine without a browser needs no error. */
function openBrowser(url: string): void {
  const program = process.platform === "darwin" ? "open" : "xdg-open";
  spawn(program, [url], { stdio: "ignore", detached: true })
    .on("error", () => {})
    .unref();
}
